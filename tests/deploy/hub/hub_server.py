"""A local server that speaks as much of the Hugging Face hub as its client needs for one model."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class HubServer(ThreadingHTTPServer):
    """Keeps the files of one repository in memory; `with HubServer() as server` runs it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        """Starts to answer."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        """Stops."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Prints nothing."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = f"{self.server.url}/me/sine"
        if self.path.endswith("/repos/create"):
            self.answer({"url": url, "name": "me/sine", "id": "1"})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": f["path"], **kind} for f in json.loads(body)["files"]]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for item in map(json.loads, body.splitlines()):
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.server.files[item["value"]["path"]] = content
            self.answer({"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({}, 404)

    def do_GET(self):
        files = self.server.files
        name = self.path.rpartition("/")[2]
        if "/resolve/" in self.path and name in files:
            tag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            self.answer(files[name], ETag=tag, **{"X-Repo-Commit": COMMIT})
        elif "/tree/" in self.path:
            self.answer(
                [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in files.items()
                ]
            )
        elif "/api/models/me/sine" in self.path:
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": "me/sine", "sha": COMMIT, "siblings": siblings})
        else:
            self.answer({}, 404)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content, status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
