/* Calls that do not wait: cookies, completions, and a loop of the caller's. */

#include "check.h"

#include <poll.h>

#define COMMANDS 100

static unsigned completed;

static int
count (void *data, int *error)
{
  CHECK (*error == 0);
  completed++;
  return *(int *)data;
}

static int
replace (void *data UNUSED, int *error)
{
  *error = EXDEV;
  return -1;
}

/* A round of the caller's own loop. */
static void
turn (struct nbd_handle *h)
{
  unsigned direction = nbd_aio_get_direction (h);
  struct pollfd fd = { .fd = nbd_aio_get_fd (h) };
  CHECK (fd.fd >= 0 && direction != 0);
  if (direction & LIBNBD_AIO_DIRECTION_READ)
    fd.events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE)
    fd.events |= POLLOUT;
  CHECK (poll (&fd, 1, -1) == 1);
  direction = nbd_aio_get_direction (h);
  if ((direction & LIBNBD_AIO_DIRECTION_READ) && (fd.revents & POLLIN))
    CHECK (nbd_aio_notify_read (h) == 0);
  else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && (fd.revents & POLLOUT))
    CHECK (nbd_aio_notify_write (h) == 0);
}

int
main (int argc UNUSED, char *argv[])
{
  static char buffers[COMMANDS][512];
  int64_t cookies[COMMANDS];
  int keep = 0, retire = 1;
  struct nbd_handle *h = create ();

  /* Connecting in steps. */
  CHECK (nbd_aio_is_created (h) == 1);
  FAILS (nbd_aio_get_fd (h), EINVAL);
  FAILS (nbd_poll (h, 0), EINVAL);
  CHECK (nbd_aio_connect_uri (h, argv[1]) == 0);
  CHECK (nbd_aio_is_connecting (h) == 1);
  while (nbd_aio_is_connecting (h))
    turn (h);
  CHECK (nbd_aio_is_ready (h) == 1);
  CHECK (nbd_aio_in_flight (h) == 0);
  FAILS (nbd_aio_peek_command_completed (h), EINVAL);
  FAILS (nbd_aio_notify_write (h), EINVAL);
  FAILS (nbd_aio_command_completed (h, 0), EINVAL);
  CHECK (nbd_aio_command_completed (h, 1) == 0);

  /* Numbers grow from 1. Commands stay until they are retired. */
  for (int i = 0; i < COMMANDS; i++) {
    memset (buffers[i], i, sizeof buffers[i]);
    cookies[i] = nbd_aio_pwrite (h, buffers[i], 512, i * 512,
                                 (nbd_completion_callback){ .callback = count,
                                                            .user_data = &keep },
                                 0);
    CHECK (cookies[i] == i + 1);
  }
  while (nbd_aio_in_flight (h) > 0)
    turn (h);
  CHECK (completed == COMMANDS);
  CHECK (nbd_aio_peek_command_completed (h) > 0);
  for (int i = 0; i < COMMANDS; i++) {
    CHECK (nbd_aio_command_completed (h, cookies[i]) == 1);
    CHECK (nbd_aio_command_completed (h, cookies[i]) == 0);
  }
  FAILS (nbd_aio_peek_command_completed (h), EINVAL);

  /* Retired by the callback: never seen again. */
  completed = 0;
  for (int i = 0; i < COMMANDS; i++)
    CHECK (nbd_aio_pread (h, buffers[i], 512, (COMMANDS - 1 - i) * 512,
                          (nbd_completion_callback){ .callback = count,
                                                     .user_data = &retire },
                          0) > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (completed == COMMANDS);
  FAILS (nbd_aio_peek_command_completed (h), EINVAL);
  for (int i = 0; i < COMMANDS; i++)
    CHECK (buffers[i][511] == COMMANDS - 1 - i);
  CHECK (nbd_poll (h, 0) == 0);

  /* A callback puts an error in place of success. */
  int64_t cookie
    = nbd_aio_flush (h, (nbd_completion_callback){ .callback = replace }, 0);
  CHECK (cookie > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (nbd_aio_peek_command_completed (h) == cookie);
  FAILS (nbd_aio_command_completed (h, cookie), EXDEV);
  CHECK (nbd_aio_command_completed (h, cookie) == 0);

  /* The goodbye counts, and nothing may follow it. */
  CHECK (nbd_aio_disconnect (h, 0) == 0);
  CHECK (nbd_aio_in_flight (h) == 1);
  FAILS (nbd_aio_disconnect (h, 0), EINVAL);
  FAILS (nbd_aio_flush (h, NBD_NULL_COMPLETION, 0), EINVAL);
  while (!nbd_aio_is_closed (h))
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (nbd_aio_in_flight (h) == 0);
  FAILS (nbd_aio_disconnect (h, 0), EINVAL);
  nbd_close (h);
  return 0;
}
