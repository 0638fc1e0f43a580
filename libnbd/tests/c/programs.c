/* Programs that are started: on standard input, and by socket activation. */

#include "check.h"

#include <signal.h>
#include <sys/wait.h>

int
main (void)
{
  static char buffer[512];
  char *plain[] = { "nbdkit", "-s", "--exit-with-parent", "memory", "1M", NULL };
  char *activated[] = { "nbdkit", "memory", "1M", NULL };
  char *missing[] = { "no-such-program-of-mine", NULL };
  char *mute[] = { "true", NULL };

  struct nbd_handle *h = create ();
  CHECK (nbd_connect_command (h, plain) == 0);
  CHECK (nbd_pread (h, buffer, 512, 0, 0) == 0);
  CHECK (nbd_get_uri (h) == NULL && nbd_get_errno () == EINVAL);
  CHECK (nbd_kill_subprocess (h, SIGSTOP) == 0);
  CHECK (nbd_kill_subprocess (h, SIGCONT) == 0);
#ifdef LIBNBD_HAVE_NBD_GET_SUBPROCESS_PID
  CHECK (nbd_get_subprocess_pid (h) > 0);
#endif
  nbd_close (h);
  /* It was waited for: there is no child left. */
  CHECK (waitpid (-1, NULL, 0) == -1 && errno == ECHILD);

  h = create ();
  CHECK (nbd_connect_systemd_socket_activation (h, activated) == 0);
  CHECK (nbd_pread (h, buffer, 512, 0, 0) == 0);
  char *uri = nbd_get_uri (h);
  CHECK (uri != NULL && strncmp (uri, "nbd+unix:///?socket=", 20) == 0);
  struct nbd_handle *second = connected (uri);
  nbd_close (second);
  CHECK (access (uri + 20, F_OK) == 0);
  nbd_close (h);
  CHECK (access (uri + 20, F_OK) == -1);
  free (uri);
  CHECK (waitpid (-1, NULL, 0) == -1 && errno == ECHILD);

  h = create ();
  /* valgrind makes a fork of a vfork, whose parent does not learn that exec has failed. */
  if (getenv ("NBD_VALGRIND") == NULL)
    FAILS (nbd_connect_command (h, missing), ENOENT);
  else
    CHECK (nbd_connect_command (h, missing) == -1);
  CHECK (nbd_aio_is_dead (h) == 1);
  nbd_close (h);
  h = create ();
  CHECK (nbd_connect_command (h, mute) == -1);
  CHECK (nbd_aio_is_dead (h) == 1);
  nbd_close (h);
  CHECK (waitpid (-1, NULL, 0) == -1 && errno == ECHILD);
  return 0;
}
