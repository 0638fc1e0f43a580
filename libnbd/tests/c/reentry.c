/* From a callback the handle can be asked for its state, and for nothing else. */

#include "check.h"

static struct nbd_handle *h;
static unsigned calls;

static int
look (void *data UNUSED, int *error UNUSED)
{
  CHECK (nbd_aio_is_connecting (h) >= 0 && nbd_aio_is_dead (h) >= 0);
  nbd_aio_get_direction (h);
  CHECK (nbd_get_private_data (h) == 42);
  CHECK (strcmp (nbd_get_package_name (h), "libnbd") == 0);
  /* Who would wait for himself is told so. */
  FAILS (nbd_get_size (h), EDEADLK);
  FAILS (nbd_poll (h, -1), EDEADLK);
  nbd_close (h);
  CHECK (nbd_get_errno () == EDEADLK);
  calls++;
  return 1;
}

/* Another handle is nobody's concern. */
static int
use_another (void *data, int *error UNUSED)
{
  static char buffer[512];
  CHECK (nbd_pread (data, buffer, sizeof buffer, 0, 0) == 0);
  calls++;
  return 1;
}

int
main (int argc UNUSED, char *argv[])
{
  h = connected (argv[1]);
  CHECK (nbd_set_private_data (h, 42) == 0);
  CHECK (nbd_aio_flush (h, (nbd_completion_callback){ .callback = look }, 0) > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (calls == 1);
  struct nbd_handle *other = connected (argv[1]);
  CHECK (nbd_aio_flush (h,
                        (nbd_completion_callback){ .callback = use_another,
                                                   .user_data = other },
                        0) > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (calls == 2);
  nbd_close (other);
  nbd_close (h);
  return 0;
}
