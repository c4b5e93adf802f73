#!/usr/bin/env bash
# Packs MetaRL and the wheels that a bare NVIDIA machine with torch (Python 3.12, no network) lacks, into two folders of under
# 64 MiB each: FOLDER/a (the project, small wheels, half of Warp) and FOLDER/b (the other half). Run from the project's root:
#     benchmarks/pack_gpu.sh .gpu     # some four minutes of two cores, once; keep FOLDER out of git
# On that machine, from the folder that holds .gpu:
#     bash .gpu/a/unpack.sh          # first: the project under /tmp/proj, packages under /tmp/site; torch-only work can run
#     bash .gpu/b/unpack.sh          # then: Warp
#     . /tmp/gpu_env                 # PYTHONPATH; cd /tmp/proj
set -euo pipefail
out=${1:?folder to pack into}; mkdir -p "$out/a" "$out/b"; out=$(cd "$out" && pwd); work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
version() { grep -iE "^$1==" constraints.txt; }
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64)
pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" -d "$work" \
    $(for p in gymnasium mujoco mujoco-core mujoco-warp warp-lang stable_baselines3 tyro docstring_parser typeguard Farama-Notifications cloudpickle glfw PyOpenGL; do version "$p"; done)
mkdir "$work/warp" && unzip -q -o "$work"/warp_lang-*.whl -d "$work/warp" && rm "$work"/warp_lang-*.whl
cp "$work"/*.whl "$out/a/"
git archive --prefix=proj/ HEAD | tar x -C "$work" && rm -rf "$work/proj/docs" && tar c -C "$work" proj | xz -6 > "$out/a/proj.tar.xz"
# warp.so is 300 MB: xz with a long window brings it to 62 MB
xz -T2 --lzma2=preset=6,dict=256MiB -c "$work/warp/warp/bin/warp.so" > "$work/warp.so.xz" && split -n 2 "$work/warp.so.xz" "$work/part."
cp "$work/part.aa" "$out/a/" && cp "$work/part.ab" "$out/b/"
xz -6 -c "$work/warp/warp/bin/warp-clang.so" > "$out/b/warp-clang.so.xz"
tar c -C "$work/warp" --exclude=warp.so --exclude=warp-clang.so . | xz -6 > "$out/b/warp_rest.tar.xz"
cat > "$out/a/unpack.sh" <<'END'
here=$(cd "$(dirname "$0")" && pwd); python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site "$here"/*.whl
xz -dc "$here/proj.tar.xz" | tar x -C /tmp; cp "$here/part.aa" /tmp/
python3 - <<'PY'
# the entry points of an installed package, without installing it
import os, re, tomllib
project = tomllib.load(open("/tmp/proj/pyproject.toml", "rb"))["project"]
version = re.search(r'__version__ = "(.+)"', open("/tmp/proj/metarl/__init__.py").read())[1]
folder = f"/tmp/site/metarl-{version}.dist-info"; os.makedirs(folder, exist_ok=True)
os.symlink("/tmp/proj/experiments", "/tmp/site/metarl_experiments")
open(folder + "/METADATA", "w").write(f"Metadata-Version: 2.1\nName: metarl\nVersion: {version}\n")
groups = dict(project.get("entry-points", {}), console_scripts=project.get("scripts", {}))
open(folder + "/entry_points.txt", "w").write("".join(f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for g, e in groups.items()))
PY
echo 'export PYTHONPATH=/tmp/site:/tmp/proj:/tmp/proj/envs PYTHONUNBUFFERED=1' > /tmp/gpu_env
END
cat > "$out/b/unpack.sh" <<'END'
here=$(cd "$(dirname "$0")" && pwd); cat /tmp/part.aa "$here/part.ab" | xz -dc > /tmp/warp.so; cd /tmp/site; xz -dc "$here/warp_rest.tar.xz" | tar x
mkdir -p warp/bin; mv /tmp/warp.so warp/bin/; xz -dc "$here/warp-clang.so.xz" > warp/bin/warp-clang.so
END
du -sh "$out/a" "$out/b"
