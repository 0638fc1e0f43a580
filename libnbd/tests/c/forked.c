/* A process that forks after use: both go on, and neither disturbs the other. */

#include "check.h"

#include <dirent.h>
#include <sys/wait.h>

static unsigned
threads (void)
{
  unsigned count = 0;
  DIR *tasks = opendir ("/proc/self/task");
  CHECK (tasks != NULL);
  for (struct dirent *entry; (entry = readdir (tasks)) != NULL;)
    if (entry->d_name[0] != '.')
      count++;
  closedir (tasks);
  return count;
}

static void
use_program (void)
{
  static char buffer[512];
  char *argv[] = { "nbdkit", "-s", "--exit-with-parent", "memory", "1M", NULL };
  struct nbd_handle *h = create ();
  CHECK (nbd_connect_command (h, argv) == 0);
  CHECK (nbd_pread (h, buffer, sizeof buffer, 0, 0) == 0);
  nbd_close (h);
}

int
main (int argc UNUSED, char *argv[])
{
  static char buffer[512];
  struct nbd_handle *h = connected (argv[1]);
  use_program ();
  CHECK (threads () == 1);

  pid_t child = fork ();
  CHECK (child != -1);
  if (child == 0) {
    alarm (60);
    /* What was the parent's is closed without a word to the server. */
    nbd_close (h);
    struct nbd_handle *own = connected (argv[1]);
    CHECK (nbd_pread (own, buffer, sizeof buffer, 0, 0) == 0);
    nbd_close (own);
    use_program ();
    _exit (0);
  }
  int status;
  CHECK (waitpid (child, &status, 0) == child);
  CHECK (WIFEXITED (status) && WEXITSTATUS (status) == 0);
  CHECK (nbd_pread (h, buffer, sizeof buffer, 0, 0) == 0);
  CHECK (nbd_shutdown (h, 0) == 0);
  nbd_close (h);
  CHECK (threads () == 1);
  return 0;
}
