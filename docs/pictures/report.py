"""Takes docs/pictures/report.png from the report of a certification: medians and curves.

python docs/pictures/report.py FOLDER

It needs Debian's chromium and chromium-driver, and ``pip install -e ".[test]"``.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

SECTIONS = ("medians", "curves")


def main(folder: str) -> Path:
    """Photograph the sections, one below the other, and return the picture's path."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,4000"):
        options.add_argument(flag)
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get((Path(folder) / "report.html").resolve().as_uri())
        time.sleep(3.0)  # until the charts are drawn
        shots = [browser.find_element(By.CSS_SELECTOR, f"[aria-labelledby={name}]") for name in SECTIONS]
        images = [Image.open(io.BytesIO(shot.screenshot_as_png)).convert("RGB") for shot in shots]
    finally:
        browser.quit()
    picture = Image.new("RGB", (images[0].width, sum(image.height + 12 for image in images)), "white")
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height + 12
    path = Path(__file__).with_suffix(".png")
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


if __name__ == "__main__":
    main(sys.argv[1])
