/* A disk that fails when it is told to: preloaded between a process and its C library.
 *
 * `disk_faults(prefix, page)` names the folder whose files are meant and a page of shared memory:
 *   0  errno of what changes a file (0: none)      1  microseconds that each change takes
 *   2  errors given                                3  full: nothing grows beyond the blocks that it has
 * Whoever maps the page changes it at any time. Files opened before are recognized by their path.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { ERROR, DELAY, GIVEN, FULL };

static volatile uint64_t *page;
static char prefix[PATH_MAX];

void disk_faults(const char *folder, uint64_t *shared)
{
    strncpy(prefix, folder, sizeof prefix - 1);
    page = shared;
}

static int meant(const char *path)
{
    return page && !strncmp(path, prefix, strlen(prefix));
}

static int of_fd(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t size;

    if (!page)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size <= 0)
        return 0;
    path[size] = 0;
    return meant(path);
}

/* Whether the change is to fail. */
static int fails(void)
{
    if (page[DELAY])
        poll(NULL, 0, page[DELAY] / 1000); /* a call that a confined collector may make */
    if (!page[ERROR])
        return 0;
    __atomic_fetch_add(&page[GIVEN], 1, __ATOMIC_RELAXED);
    errno = page[ERROR];
    return 1;
}

/* How many of `size` bytes at `at` find room. */
static size_t room(int fd, size_t size, off_t at)
{
    struct stat status;
    off_t have;

    if (!page[FULL] || fstat(fd, &status))
        return size;
    have = status.st_blocks * 512;
    if (at + (off_t)size <= have)
        return size;
    __atomic_fetch_add(&page[GIVEN], 1, __ATOMIC_RELAXED);
    return at < have ? have - at : 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    if (of_fd(fd)) {
        size_t fits;

        if (fails())
            return -1;
        fits = room(fd, size, at);
        if (size && !fits) {
            errno = ENOSPC;
            return -1;
        }
        size = fits;
    }
    return NEXT(pwrite64)(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return pwrite64(fd, data, size, at);
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (of_fd(fd)) {
        size_t fits;

        if (fails())
            return -1;
        fits = room(fd, size, lseek(fd, 0, SEEK_CUR));
        if (size && !fits) {
            errno = ENOSPC;
            return -1;
        }
        size = fits;
    }
    return NEXT(write)(fd, data, size);
}

int fallocate64(int fd, int mode, off_t at, off_t size)
{
    if (of_fd(fd)) {
        if (fails())
            return -1;
        if (room(fd, size, at) < (size_t)size) {
            errno = ENOSPC;
            return -1;
        }
    }
    return NEXT(fallocate64)(fd, mode, at, size);
}

int fallocate(int fd, int mode, off_t at, off_t size)
{
    return fallocate64(fd, mode, at, size);
}

int ftruncate64(int fd, off_t size)
{
    if (of_fd(fd) && fails())
        return -1;
    return NEXT(ftruncate64)(fd, size);
}

int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

int fsync(int fd)
{
    if (of_fd(fd) && fails())
        return -1;
    return NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
    if (of_fd(fd) && fails())
        return -1;
    return NEXT(fdatasync)(fd);
}

static int opened(int folder, const char *path, int flags, mode_t mode)
{
    int meant_here = folder == AT_FDCWD || path[0] == '/' ? meant(path) : of_fd(folder);

    if (meant_here && (flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails())
        return -1;
    return NEXT(openat64)(folder, path, flags, mode);
}

#define MODE(flags, mode)                                                                                   \
    va_list more;                                                                                           \
    va_start(more, flags);                                                                                  \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                 \
    va_end(more)

int open64(const char *path, int flags, ...)
{
    MODE(flags, mode);
    return opened(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    MODE(flags, mode);
    return opened(AT_FDCWD, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...)
{
    MODE(flags, mode);
    return opened(folder, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...)
{
    MODE(flags, mode);
    return opened(folder, path, flags, mode);
}

int rename(const char *from, const char *to)
{
    if (meant(from) && fails())
        return -1;
    return NEXT(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    if (of_fd(from_folder) && fails())
        return -1;
    return NEXT(renameat)(from_folder, from, to_folder, to);
}

int unlink(const char *path)
{
    if (meant(path) && fails())
        return -1;
    return NEXT(unlink)(path);
}

int mkdir(const char *path, mode_t mode)
{
    if (meant(path) && fails())
        return -1;
    return NEXT(mkdir)(path, mode);
}
