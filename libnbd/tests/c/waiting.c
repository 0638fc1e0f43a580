/* Calls that wait for their answer. */

#include <fcntl.h>

#include "check.h"

static unsigned calls;
static uint64_t covered;

static int
extent (void *data UNUSED, const char *context, uint64_t offset,
        uint32_t *entries, size_t count, int *error)
{
  CHECK (strcmp (context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0);
  CHECK (offset == 0 && count % 2 == 0 && *error == 0);
  for (size_t i = 0; i < count; i += 2)
    covered += entries[i];
  calls++;
  return 0;
}

#ifdef LIBNBD_HAVE_NBD_BLOCK_STATUS_64
static int
extent64 (void *data UNUSED, const char *context UNUSED, uint64_t offset,
          nbd_extent *entries, size_t count, int *error UNUSED)
{
  CHECK (offset == 0);
  for (size_t i = 0; i < count; i++)
    covered += entries[i].length;
  return 0;
}
#endif

int
main (int argc UNUSED, char *argv[])
{
  static char out[8192], in[8192];
  struct nbd_handle *h = connected (argv[1]);

  CHECK (nbd_aio_is_ready (h) == 1);
  CHECK (nbd_get_size (h) == 1 << 20);
  CHECK (strcmp (nbd_get_protocol (h), "newstyle-fixed") == 0);
  CHECK (nbd_get_structured_replies_negotiated (h) == 1);
  CHECK (nbd_get_tls_negotiated (h) == 0);
  CHECK (nbd_is_read_only (h) == 0 && nbd_can_flush (h) == 1);
  CHECK (nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1);
  CHECK (nbd_can_meta_context (h, "base:nothing") == 0);
  CHECK (nbd_get_block_size (h, LIBNBD_SIZE_MINIMUM) >= 0);

  char *uri = nbd_get_uri (h);
  CHECK (uri != NULL && strncmp (uri, "nbd+unix:///?socket=", 20) == 0);
  free (uri);

  memset (out, 'x', sizeof out);
  CHECK (nbd_pwrite (h, out, sizeof out, 4096, 0) == 0);
  CHECK (nbd_pread (h, in, sizeof in, 4096, 0) == 0);
  CHECK (memcmp (in, out, sizeof in) == 0);
  CHECK (nbd_zero (h, 4096, 4096, LIBNBD_CMD_FLAG_NO_HOLE) == 0);
  CHECK (nbd_trim (h, 4096, 8192, LIBNBD_CMD_FLAG_FUA) == 0);
  CHECK (nbd_pread (h, in, sizeof in, 4096, 0) == 0);
  memset (out, 0, sizeof out);
  CHECK (memcmp (in, out, sizeof in) == 0);
  CHECK (nbd_cache (h, 4096, 0, 0) == 0);
  CHECK (nbd_flush (h, 0) == 0);

  nbd_extent_callback callback = { .callback = extent };
  CHECK (nbd_block_status (h, 1 << 20, 0, callback, 0) == 0);
  CHECK (calls == 1 && covered == 1 << 20);
#ifdef LIBNBD_HAVE_NBD_BLOCK_STATUS_64
  covered = 0;
  CHECK (nbd_block_status_64 (h, 1 << 20, 0,
                              (nbd_extent64_callback){ .callback = extent64 },
                              0) == 0);
  CHECK (covered == 1 << 20);
#endif
#ifdef LIBNBD_HAVE_NBD_STATS_BYTES_SENT
  CHECK (nbd_stats_bytes_sent (h) > 8192 && nbd_stats_bytes_received (h) > 8192);
  CHECK (nbd_stats_chunks_sent (h) > 7 && nbd_stats_chunks_received (h) > 7);
#endif

#ifdef LIBNBD_HAVE_NBD_POLL2
  /* A descriptor that nobody has is an error, and nothing to read. */
  int fd = dup (0);
  CHECK (close (fd) == 0);
  CHECK (nbd_poll2 (h, fd, 0) == -1 && nbd_get_errno () == EBADF);
#endif

  /* Where debug messages cannot be written, calls are none the worse. */
  int kept = dup (2), full = open ("/dev/full", O_WRONLY);
  CHECK (kept >= 0 && full >= 0 && dup2 (full, 2) == 2);
  CHECK (nbd_set_debug (h, 1) == 0);
  int read = nbd_pread (h, in, sizeof in, 0, 0);
  CHECK (nbd_set_debug (h, 0) == 0);
  CHECK (dup2 (kept, 2) == 2 && close (kept) == 0 && close (full) == 0);
  CHECK (read == 0);

  CHECK (nbd_shutdown (h, 0) == 0);
  CHECK (nbd_aio_is_closed (h) == 1);
  CHECK (nbd_get_size (h) == 1 << 20);
  FAILS (nbd_pread (h, in, 512, 0, 0), EINVAL);
  nbd_close (h);
  nbd_close (NULL);
  return 0;
}
