"""Compiles the kernels of chelsea-cuda for GPUs, without one and without CUDA's toolkit.

    compile.py KERNELS_FOLDER [--check]

needs the packages that packages.txt beside it pins. Writes `chelsea.fatbin.z` into the folder: one program for all
architectures, in a zlib stream, since drivers do not read every compressed form of it. And `registers.txt`: for each
kernel and architecture its registers, the bytes of its stack and those that it spills. With `--check` it writes nothing,
and fails where what lies there is not what the sources give: the same sources give the same bytes anywhere.
"""

import ctypes
import hashlib
import pathlib
import re
import sys
import zlib

import nvidia.cuda_nvrtc
import nvidia.nvfatbin

ARCHITECTURES = ["sm_80", "sm_89", "sm_90a", "sm_120"]
OPTIONS = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"]


def library(package, pattern):
    folder = pathlib.Path(next(iter(package.__path__))) / "lib"
    return ctypes.CDLL(str(sorted(folder.glob(pattern))[0]))


def nvrtc_text(rtc, program, what):
    size = ctypes.c_size_t()
    getattr(rtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(rtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def compiled(rtc, folder, source, architecture):
    """The machine code for an architecture, and what the assembler says of it."""
    program = ctypes.c_void_p()
    headers = sorted([*folder.glob("*.cuh"), *folder.glob("*.cu")])
    texts = (ctypes.c_char_p * len(headers))(*[path.read_bytes() for path in headers])
    names = (ctypes.c_char_p * len(headers))(*[path.name.encode() for path in headers])
    if rtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"chelsea.cu", len(headers), texts, names) != 0:
        sys.exit("NVRTC makes no program")
    options = [f"--gpu-architecture={architecture}", *OPTIONS]
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = rtc.nvrtcCompileProgram(program, len(options), array)
    log = nvrtc_text(rtc, program, "ProgramLog").decode(errors="replace").rstrip("\0")
    if failed or "warning" in log:
        sys.exit(f"{architecture}:\n{log}")
    return nvrtc_text(rtc, program, "CUBIN"), log


def registers(log):
    """(kernel, registers, bytes of stack, bytes of spills) of what the assembler says."""
    rows = []
    for part in log.split("Compiling entry function '")[1:]:
        name = part[: part.index("'")]
        spills = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        stack, stores, loads = map(int, re.search(spills, part).groups())
        rows.append((name, int(re.search(r"Used (\d+) registers", part)[1]), stack, stores + loads))
    return sorted(rows)


def fatbin(programs):
    lib = library(nvidia.nvfatbin, "libnvfatbin.so*")
    handle = ctypes.c_void_p()
    options = (ctypes.c_char_p * 1)(b"-64")

    def check(result, doing):
        if result != 0:
            sys.exit(f"nvFatbin cannot {doing}: error {result}")

    check(lib.nvFatbinCreate(ctypes.byref(handle), options, 1), "begin")
    for architecture, code in programs:
        number = architecture.removeprefix("sm_").encode()
        check(lib.nvFatbinAddCubin(handle, code, ctypes.c_size_t(len(code)), number, b"chelsea"), f"add {architecture}")
    size = ctypes.c_size_t()
    check(lib.nvFatbinSize(handle, ctypes.byref(size)), "say its size")
    buffer = ctypes.create_string_buffer(size.value)
    check(lib.nvFatbinGet(handle, buffer), "be read")
    return buffer.raw


def main():
    folder, check = pathlib.Path(sys.argv[1]), sys.argv[2:] == ["--check"]
    rtc = library(nvidia.cuda_nvrtc, "libnvrtc.so.*")
    source = "".join(f'#include "{path.name}"\n' for path in sorted(folder.glob("*.cu")))
    programs, table = [], {}
    for architecture in ARCHITECTURES:
        code, log = compiled(rtc, folder, source, architecture)
        programs.append((architecture, code))
        for name, used, stack, spilled in registers(log):
            table.setdefault(name, {})[architecture] = (used, stack, spilled)
    binary = fatbin(programs)
    lines = ["# registers/bytes of stack/bytes that are spilled, for each architecture", "kernel".ljust(24) + "".join(a.rjust(14) for a in ARCHITECTURES)]
    for name, cells in sorted(table.items()):
        lines.append(name.ljust(24) + "".join("/".join(map(str, cells[a])).rjust(14) for a in ARCHITECTURES))
    text = "\n".join(lines) + "\n"
    print(text, end="")
    print(f"{len(table)} kernels, {len(binary)} bytes, SHA-256 {hashlib.sha256(binary).hexdigest()}")
    program, registers_file = folder / "chelsea.fatbin.z", folder / "registers.txt"
    if check:
        same = zlib.decompress(program.read_bytes()) == binary and registers_file.read_text() == text
        sys.exit(0 if same else "the committed program is not what the sources give: `cargo xtask kernels` writes it anew")
    program.write_bytes(zlib.compress(binary, 9))
    registers_file.write_text(text)


main()
