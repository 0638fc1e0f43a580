/* A server that ends while something is under way. */

#include "check.h"

#include <signal.h>

static unsigned completed;

static int
on_completion (void *data UNUSED, int *error)
{
  CHECK (*error == ENOTCONN);
  completed++;
  return 0;
}

int
main (void)
{
  static char buffer[512];
  char *argv[] = { "nbdkit", "-s", "--exit-with-parent", "memory", "1M",
                   "--filter=delay", "delay-read=60", NULL };
  struct nbd_handle *h = create ();
  CHECK (nbd_connect_command (h, argv) == 0);
  int64_t one = nbd_aio_pread (h, buffer, 512, 0, NBD_NULL_COMPLETION, 0);
  int64_t two = nbd_aio_pread (
    h, buffer, 512, 0, (nbd_completion_callback){ .callback = on_completion }, 0);
  CHECK (one > 0 && two > 0 && nbd_aio_in_flight (h) == 2);
  CHECK (nbd_kill_subprocess (h, SIGKILL) == 0);
  while (nbd_aio_is_ready (h) || nbd_aio_is_processing (h))
    nbd_poll (h, -1);
  CHECK (nbd_aio_is_dead (h) || nbd_aio_is_closed (h));
  CHECK (nbd_aio_in_flight (h) == 0 && completed == 1);
  FAILS (nbd_aio_command_completed (h, one), ENOTCONN);
  FAILS (nbd_aio_command_completed (h, two), ENOTCONN);
  FAILS (nbd_pread (h, buffer, 512, 0, 0), EINVAL);
  nbd_close (h);

  /* While the call waits. */
  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0);
  CHECK (nbd_connect_command (h, argv) == 0);
  CHECK (nbd_kill_subprocess (h, SIGKILL) == 0);
  CHECK (nbd_opt_go (h) == -1);
  CHECK (nbd_aio_is_dead (h) == 1);
  nbd_close (h);
  return 0;
}
