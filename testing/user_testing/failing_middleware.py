"""A middleware that now and then does not take what is sent, as FastDDS on a full machine.

A library in front of it (``LD_PRELOAD``) lets a share of all publications, requests and answers of a process return
an error, whoever sends them: our code, rclpy, or rcl in the middle of a transition.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static double of_environment(const char *name) { const char *text = getenv(name); return text ? atof(text) : 0.0; }

static int fails(const char *variable) {
  static int seeded;
  if (!seeded) { seeded = 1; srand48(getpid()); }
  return drand48() < of_environment(variable);
}

static void *next(const char *name) {
  const char *names[] = {"librmw_implementation.so", "librmw_fastrtps_cpp.so"};
  for (int i = 0; i < 2; ++i) {
    void *library = dlopen(names[i], RTLD_NOLOAD | RTLD_LAZY);
    void *found = library ? dlsym(library, name) : 0;
    if (found) return found;
  }
  abort();
}

#define IN_FRONT_OF(name, variable) \
  int name(void *a, void *b, void *c) { \
    static int (*real)(void *, void *, void *); \
    if (!real) real = next(#name); \
    return fails(variable) ? 1 : real(a, b, c); /* RMW_RET_ERROR */ \
  }

IN_FRONT_OF(rmw_publish, "FAILING_MESSAGES")
IN_FRONT_OF(rmw_publish_serialized_message, "FAILING_MESSAGES")
IN_FRONT_OF(rmw_send_request, "FAILING_CALLS")
IN_FRONT_OF(rmw_send_response, "FAILING_CALLS")
"""


def failing_middleware(folder: Path, messages: float, calls: float = 0.0) -> dict[str, str]:
    """Environment of processes in which a share of what is sent is not taken.

    Args:
        folder: Where the library is built.
        messages: Share of publications that are not taken, 0 to 1.
        calls: Share of requests and answers.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here, which the library in front of the middleware needs")
    source, library = folder / "failing_middleware.c", folder / "failing_middleware.so"
    source.write_text(_SOURCE)
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True, timeout=60)
    shares = {"FAILING_MESSAGES": str(messages), "FAILING_CALLS": str(calls)}
    return {"LD_PRELOAD": str(library), **shares}
