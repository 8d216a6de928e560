"""Reads the QR code in the output of `proxy-herd --invite` as a phone would, with zxing-cpp.

Usage: scan.py FILE. Prints the texts of the codes.
"""

import sys

import zxingcpp

SIDE = 4  # pixels of a module, in both directions
BLOCKS = "█▀▄ "

image = []
for line in open(sys.argv[1]).read().splitlines():
    if len(line) > 20 and set(line) <= set(BLOCKS):
        for half in "█▀", "█▄":
            pixels = b"".join((b"\xff" if block in half else b"\0") * SIDE for block in line)
            image += [pixels] * SIDE
pixels = memoryview(b"".join(image)).cast("B", (len(image), len(image[0])))
for code in zxingcpp.read_barcodes(pixels):
    print(code.text)
