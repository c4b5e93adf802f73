"""Small archives in Omniglot's official formats, drawn by the tests themselves."""

import hashlib
import io
import zipfile

import numpy as np
from PIL import Image

SIZE = 105
DRAWN: set[str] = set()  # the SHA-256 of the archives
FIRST = {"Balinese": 3, "Early_Aramaic": 2, "Greek": 4, "Korean": 3, "Latin": 5}
SECOND = {"Greek": 4, "Japanese_(katakana)": 4, "Latin": 5, "Sanskrit": 3, "Tagalog": 2}


def png(seed: int, size: int = SIZE) -> bytes:
    """Draws a bar of one bit per pixel, ink 0 on paper 1, that no other seed draws."""
    image = np.ones((size, size), dtype=bool)
    row, column = 5 + 7 * (seed % 13), 5 + 7 * (seed // 13 % 13)
    image[row : row + 6, 10:95] = False
    image[10:95, column : column + 6] = False
    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return data.getvalue()


def write_images(path, alphabets, drawings=4):
    """Writes archive/alphabet/characterNN/drawing.png for {alphabet: characters}.

    The archive then counts as official: see the fixture `drawn_archives_are_official`.
    """
    number = 0
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/", "")
        for alphabet, characters in alphabets.items():
            archive.writestr(f"{path.stem}/{alphabet}/", "")
            for character in range(1, characters + 1):
                number += 1
                for drawing in range(1, drawings + 1):
                    name = f"character{character:02d}/{number:04d}_{drawing:02d}.png"
                    archive.writestr(f"{path.stem}/{alphabet}/{name}", png(number + 40 * drawing))
    DRAWN.add(hashlib.sha256(path.read_bytes()).hexdigest())


def write_minimal(folder):
    """Writes both minimal backgrounds, of 17 and 18 characters; 9 of them in both."""
    write_images(folder / "images_background_small1.zip", FIRST)
    write_images(folder / "images_background_small2.zip", SECOND)


def write_runs(path, runs=2, order=None):
    """Writes one-shot runs in which each test image equals its training image.

    `order` gives, for run 1, the training class (0..19) of each test item; later runs shift it.
    """
    order = list(range(20)) if order is None else order
    with zipfile.ZipFile(path, "w") as archive:
        for run in range(1, runs + 1):
            lines = []
            for place, known in enumerate(order):
                known = (known + run - 1) % 20
                image = png(known * 8 + 1)
                item = f"run{run:02d}/test/item{place + 1:02d}.png"
                answer = f"run{run:02d}/training/class{known + 1:02d}.png"
                archive.writestr(item, image)
                archive.writestr(answer, image)
                lines.append(f"{item} {answer}\n")
            archive.writestr(f"run{run:02d}/class_labels.txt", "".join(lines))
