"""What the real bindings of TensorRT have: every class, method and argument. Run as a module.

The bindings are one extension that wants three libraries which are not on PyPI. It only has to be
loaded to be asked for its names, so it gets libraries in which every function returns 0. Nothing
of TensorRT can be run with them. Prints JSON: for each class the text of each of its attributes.
"""

import enum
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)


def names():
    """Class name -> attribute name -> its docstring, which for a method has its signatures."""
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            Path(folder, library).write_bytes(library_of(FUNCTIONS))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        command = [sys.executable, str(Path(__file__))]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


def library_of(functions):
    """An x86-64 shared object (ELF) in which each of some functions returns 0."""
    returns_zero = b"\x31\xc0\xc3".ljust(8, b"\x90")
    code = 64 + 2 * 56
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in functions)
    symbols, at = bytes(24), 1
    for name in functions:
        symbols += struct.pack("<IBBHQQ", at, 0x12, 0, 1, code, 3)
        at += len(name) + 1
    count = len(functions)
    # One bucket: a list of all symbols.
    chain = [0, *range(2, count + 1), 0]
    table = struct.pack(f"<IIII{count}I", 1, count + 1, 1, *chain[:1], *chain[1:])
    table += bytes(-len(table) % 8)
    symbols_at = code + len(returns_zero)
    table_at = symbols_at + len(symbols)
    dynamic_at = table_at + len(table)
    strings_at = dynamic_at + 6 * 16
    size = strings_at + len(strings)
    tags = ((4, table_at), (5, strings_at), (6, symbols_at), (10, len(strings)), (11, 24), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 7, 0, 0, 0, size, size, 4096)
    dynamic_size = len(dynamic)
    places = (dynamic_at, dynamic_at, dynamic_at, dynamic_size, dynamic_size, 8)
    header += struct.pack("<IIQQQQQQ", 2, 6, *places)
    return header + returns_zero + symbols + table + dynamic + strings


def main():
    sys.path = [place for place in sys.path if Path(place) != Path(__file__).parent]
    # Functions are looked up when they are called, which they are not.
    sys.setdlopenflags(os.RTLD_LAZY)
    import tensorrt_bindings

    found = {"": {"__version__": tensorrt_bindings.__version__}}
    for name, value in vars(tensorrt_bindings).items():
        if isinstance(value, type) and not issubclass(value, enum.Enum):
            attributes = {key: getattr(value, key, None) for key in dir(value)}
            found[name] = {key: str(one.__doc__ or "") for key, one in attributes.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
