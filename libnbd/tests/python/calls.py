# What Debian's Python module asks of the library.

import errno
import os
import sys

import nbd

uri = sys.argv[1]

h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_size() == 1 << 20
assert h.get_version() == os.environ["NBD_TEST_LEVEL"]

h.pwrite(b"\x55" * 4096, 4096)
assert h.pread(8192, 0) == b"\0" * 4096 + b"\x55" * 4096
h.flush()

seen = []


def extents(context, offset, entries, error):
    seen.append((context, offset, entries, error.value))


h.block_status(1 << 20, 0, extents)
assert seen[0][0] == "base:allocation" and sum(seen[0][2][::2]) == 1 << 20, seen

parts = []
h.pread_structured(8192, 0, lambda data, at, status, error: parts.append((at, len(data), status)))
assert sum(part[1] for part in parts) == 8192, parts

# An exception of a callback fails the command.


def broken(data, at, status, error):
    error.value = errno.ENOSPC
    raise ValueError


try:
    h.pread_structured(512, 0, broken)
    assert False, "it failed"
except nbd.Error as error:
    assert error.errnum in (errno.ENOSPC, errno.EPROTO), error

# Asynchronous commands: buffers outlive the call, completions come once.
buffers = [nbd.Buffer(512) for _ in range(16)]
done = []
cookies = [
    h.aio_pread(buffer, index * 512, completion=lambda error, index=index: done.append(index))
    for index, buffer in enumerate(buffers)
]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert sorted(done) == list(range(16)), done
assert all(h.aio_command_completed(cookie) for cookie in cookies)
assert not h.aio_command_completed(cookies[0])
assert buffers[8].to_bytearray() == b"\x55" * 512

retired = []
h.aio_flush(completion=lambda error: retired.append(error.value) or 1)
while h.aio_in_flight() > 0:
    h.poll(-1)
assert retired == [0]

for call, number in [
    (lambda: h.pread(512, 1 << 20), errno.EINVAL),
    (lambda: h.pwrite(b"x" * 512, 1 << 20), errno.ENOSPC),
    (lambda: h.connect_uri(uri), errno.EINVAL),
    (lambda: h.set_export_name("x" * 5000), errno.EINVAL),
    (lambda: h.aio_command_completed(0), errno.EINVAL),
]:
    try:
        call()
        assert False, "it failed"
    except nbd.Error as error:
        assert error.errnum == number, error
h.shutdown()
assert h.aio_is_closed()

o = nbd.NBD()
o.set_opt_mode(True)
o.set_full_info(True)
o.connect_uri(uri)
names = []
assert o.opt_list(lambda name, description: names.append(name)) == len(names) == 1
contexts = []
o.opt_list_meta_context(lambda name: contexts.append(name))
assert "base:allocation" in contexts
o.opt_info()
assert o.get_size() == 1 << 20 and not o.aio_is_ready()
o.opt_go()
assert o.aio_is_ready()
