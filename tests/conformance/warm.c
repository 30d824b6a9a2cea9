/* What stands in the place of the command: it gives its arguments, environment, folder and standard streams to
 * the process that warm.py is, passes on the signals it gets, and exits as the command does. WARM_SOCKET is
 * where that process listens.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static volatile pid_t command;
static char request[1 << 20];
static size_t filled = sizeof(uint32_t); /* its length stands before it */

static void pass_on(int number)
{
    if (command > 0)
        kill(command, number);
}

static void put(const char *text)
{
    size_t size = strlen(text) + 1;
    if (filled + size > sizeof request)
        _exit(99);
    memcpy(request + filled, text, size);
    filled += size;
}

static int answered(int peer, int32_t *number)
{
    ssize_t got;
    while ((got = read(peer, number, sizeof *number)) < 0 && errno == EINTR)
        ;
    return got == sizeof *number;
}

int main(int count, char **arguments)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    struct sigaction action = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    for (size_t at = 0; at < sizeof signals / sizeof *signals; at++)
        sigaction(signals[at], &action, NULL);
    int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = WARM_SOCKET};
    if (connect(peer, (void *)&address, sizeof address)) {
        perror(WARM_SOCKET);
        return 99;
    }
    char text[4096];
    snprintf(text, sizeof text, "%d", count - 1);
    put(text);
    for (int at = 1; at < count; at++)
        put(arguments[at]);
    put(getcwd(text, sizeof text) ? text : "/");
    for (char **at = environ; *at; at++)
        put(*at);
    uint32_t size = filled - sizeof size;
    memcpy(request, &size, sizeof size);
    char control[CMSG_SPACE(3 * sizeof(int))];
    struct iovec part = {request, sizeof size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(3 * sizeof(int));
    memcpy(CMSG_DATA(head), (int[]){0, 1, 2}, 3 * sizeof(int));
    if (sendmsg(peer, &message, 0) < 0)
        return 99;
    for (size_t sent = sizeof size; sent < filled;) {
        ssize_t got = write(peer, request + sent, filled - sent);
        if (got < 0)
            return 99;
        sent += got;
    }
    int32_t number;
    if (!answered(peer, &number))
        return 99;
    command = number;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    return answered(peer, &number) ? number : 99;
}
