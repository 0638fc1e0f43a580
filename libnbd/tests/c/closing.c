/* Closed in every state, with commands under way. */

#include "check.h"

#include <sys/socket.h>

static unsigned completed;

static int
on_completion (void *data UNUSED, int *error)
{
  CHECK (*error == ENOTCONN);
  completed++;
  return 1;
}

int
main (int argc UNUSED, char *argv[])
{
  static char buffer[64][32768];
  nbd_completion_callback completion = { .callback = on_completion };

  nbd_close (create ());

  struct nbd_handle *h = create ();
  CHECK (nbd_aio_connect_uri (h, argv[1]) == 0);
  nbd_close (h);

  /* A server that never says a word. */
  int sockets[2];
  CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  h = create ();
  CHECK (nbd_aio_connect_socket (h, sockets[0]) == 0);
  CHECK (nbd_poll (h, 10) == 0);
  nbd_close (h);
  char byte;
  CHECK (read (sockets[1], &byte, 1) == 0); /* it is closed */
  close (sockets[1]);

  h = connected (argv[1]);
  for (int i = 0; i < 64; i++)
    CHECK (nbd_aio_pread (h, buffer[i], sizeof buffer[i], 0, completion, 0) > 0);
  nbd_close (h);
#ifdef LIBNBD_HAVE_NBD_GET_EXTENDED_HEADERS_NEGOTIATED
  /* From 1.18 on each of them is told. */
  CHECK (completed == 64);
#else
  CHECK (completed == 0);
#endif

  h = connected (argv[1]);
  CHECK (nbd_aio_pread (h, buffer[0], 512, 0, NBD_NULL_COMPLETION, 0) > 0);
  CHECK (nbd_aio_disconnect (h, 0) == 0);
  nbd_close (h);

  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_connect_uri (h, argv[1]) == 0);
  nbd_close (h);

  h = connected (argv[1]);
  CHECK (nbd_shutdown (h, LIBNBD_SHUTDOWN_ABANDON_PENDING) == 0);
  nbd_close (h);
  return 0;
}
