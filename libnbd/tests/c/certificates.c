/* TLS with certificates: what is checked of whom.
 * Arguments: the socket of a server, host and port of another, the directory of the authority
 * that has signed for both, and that of one that has not. */

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* A connection that the caller has made. */
static int
dialled (const char *host, const char *port)
{
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *one;
  int fd = -1;

  CHECK (getaddrinfo (host, port, &hints, &all) == 0);
  for (one = all; one != NULL && fd == -1; one = one->ai_next) {
    fd = socket (one->ai_family, one->ai_socktype, one->ai_protocol);
    if (fd != -1 && connect (fd, one->ai_addr, one->ai_addrlen) == -1) {
      close (fd);
      fd = -1;
    }
  }
  freeaddrinfo (all);
  CHECK (fd != -1);
  return fd;
}

static struct nbd_handle *
prepared (const char *certificates)
{
  struct nbd_handle *h = create ();
  CHECK (nbd_set_tls (h, LIBNBD_TLS_REQUIRE) == 0);
  CHECK (nbd_get_tls_verify_peer (h) == 1);
  if (certificates != NULL)
    CHECK (nbd_set_tls_certificates (h, certificates) == 0);
  return h;
}

int
main (int argc UNUSED, char *argv[])
{
  const char *path = argv[1], *host = argv[2], *port = argv[3];
  const char *right = argv[4], *wrong = argv[5];

  /* A local server is trusted, unless something says whom to trust. */
  struct nbd_handle *h = prepared (NULL);
  CHECK (nbd_connect_unix (h, path) == 0);
  CHECK (nbd_get_tls_negotiated (h) == 1);
  nbd_close (h);
  h = prepared (right);
  CHECK (nbd_connect_unix (h, path) == 0);
  nbd_close (h);
  h = prepared (wrong);
  CHECK (nbd_connect_unix (h, path) == -1);
  nbd_close (h);
  h = prepared (NULL);
  CHECK (nbd_set_tls_verify_peer (h, true) == 0);
  CHECK (nbd_connect_unix (h, path) == -1);
  nbd_close (h);

  /* Nobody knows where a socket leads that was handed over. */
  h = prepared (NULL);
  CHECK (nbd_connect_socket (h, dialled (host, port)) == -1);
  nbd_close (h);

  /* One that is reached by its name or address must prove that it is its own. */
  h = prepared (NULL);
  CHECK (nbd_connect_tcp (h, host, port) == -1);
  nbd_close (h);
  h = prepared (right);
  CHECK (nbd_connect_tcp (h, host, port) == 0);
  nbd_close (h);
  h = prepared (wrong);
  CHECK (nbd_connect_tcp (h, host, port) == -1);
  nbd_close (h);
  h = prepared (NULL);
  CHECK (nbd_set_tls_verify_peer (h, false) == 0);
  CHECK (nbd_get_tls_verify_peer (h) == 0);
  CHECK (nbd_connect_tcp (h, host, port) == 0);
  nbd_close (h);
  return 0;
}
