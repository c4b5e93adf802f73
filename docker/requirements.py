"""Prints the requirements in pyproject.toml, so that an image has a layer without MetaRL itself.

python3 requirements.py [video,onnx]
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = "".join(sys.argv[1:]).strip("[] ")
required = list(project["dependencies"])
for extra in filter(None, (name.strip() for name in extras.split(","))):
    required += project["optional-dependencies"][extra]
print("\n".join(required))
