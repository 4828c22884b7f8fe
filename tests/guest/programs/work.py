# SPDX-License-Identifier: BSD-2-Clause
"""Python's own machinery: objects, dictionaries, big integers, regular expressions, JSON, sorting, decimals."""
import collections
import decimal
import hashlib
import json
import math
import random
import re
import zlib


class Shape:
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side * self.side


class Circle(Shape):
    def area(self):
        return math.pi * self.side ** 2


random.seed(7)
shapes = [random.choice((Shape, Circle))(random.random()) for _ in range(50000)]
print("area", repr(sum(shape.area() for shape in shapes)))
print("sorted", hashlib.sha256(repr(sorted(shape.side for shape in shapes)).encode()).hexdigest())

text = open("text", encoding="ascii").read()[:1000000]
count = collections.Counter(re.findall(r"\b[a-m]\w+", text))
print("words", count.most_common(5))
print("replaced", zlib.crc32(re.sub(r"(\w+) (\w+)", r"\2 \1", text).encode()))

tree = {f"key{i}": [i, i / 7, str(i), {"nested": [None, True, -i]}] for i in range(20000)}
print("json", zlib.adler32(json.dumps(json.loads(json.dumps(tree, indent=1)), sort_keys=True).encode()))

print("factorial", hashlib.md5(str(math.factorial(1200)).encode()).hexdigest())
print("power", pow(3, 10 ** 300 + 7, 2 ** 521 - 1) % 10 ** 12)
decimal.getcontext().prec = 60
print("decimal", sum((decimal.Decimal(1) / decimal.Decimal(k) ** 2 for k in range(1, 5000)), decimal.Decimal(0)))
print("fib", (lambda f: f(f, 22))(lambda f, n: n if n < 2 else f(f, n - 1) + f(f, n - 2)))
