/* A read whose parts are told: data, a hole, data, 64 KiB each. */

#include "check.h"

#define PART 65536

static char buffer[3 * PART];
static uint64_t data, hole;

static int
on_chunk (void *opaque UNUSED, const void *bytes, size_t count, uint64_t offset,
          unsigned status, int *error)
{
  CHECK (*error == 0 && bytes == buffer + offset);
  switch (status) {
  case LIBNBD_READ_DATA: data += count; break;
  case LIBNBD_READ_HOLE: hole += count; break;
  default: CHECK (!"an error");
  }
  return 0;
}

static int
fail (void *opaque, const void *bytes UNUSED, size_t count UNUSED,
      uint64_t offset UNUSED, unsigned status UNUSED, int *error)
{
  *error = *(int *)opaque;
  return -1;
}

int
main (int argc UNUSED, char *argv[])
{
  struct nbd_handle *h = connected (argv[1]);
  int number = EXDEV, none = 0;

  memset (buffer, 'x', sizeof buffer);
  nbd_chunk_callback callback = { .callback = on_chunk };
  CHECK (nbd_set_pread_initialize (h, false) == 0);
  CHECK (nbd_pread_structured (h, buffer, sizeof buffer, 0, callback, 0) == 0);
  CHECK (data + hole == sizeof buffer && data >= 2 * PART);
  CHECK ((unsigned char)buffer[0] == 0x55 && buffer[PART] == 0);
  CHECK ((unsigned char)buffer[2 * PART] == 0xaa);

  /* The first error of a callback is the command's; without a number it is EPROTO. */
  callback = (nbd_chunk_callback){ .callback = fail, .user_data = &number };
  FAILS (nbd_pread_structured (h, buffer, sizeof buffer, 0, callback, 0), EXDEV);
  callback.user_data = &none;
  FAILS (nbd_pread_structured (h, buffer, sizeof buffer, 0, callback, 0), EPROTO);

  /* And the connection goes on. */
  CHECK (nbd_pread (h, buffer, 512, 0, 0) == 0);
  nbd_close (h);

  /* Without structured replies there is one part. */
  h = create ();
  CHECK (nbd_set_request_structured_replies (h, false) == 0);
  CHECK (nbd_connect_uri (h, argv[1]) == 0);
  data = hole = 0;
  callback = (nbd_chunk_callback){ .callback = on_chunk };
  CHECK (nbd_pread_structured (h, buffer, 4096, 0, callback, 0) == 0);
  CHECK (data == 4096 && hole == 0);
  CHECK (nbd_can_df (h) == 0);
  nbd_close (h);
  return 0;
}
