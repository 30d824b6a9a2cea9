/* A process that is traced: it makes numbered system calls, and counts them where kill -9 takes nothing away.
 *
 * `caller COUNTER LIFE PROBES RATE SECONDS`: the calls are lseek, readahead and ftruncate of no file, by turns,
 * as many of them as there are probes; each has the number LIFE << 40 | n for its argument. COUNTER is a file:
 *   0  how many calls were made (counted before the call)   1  set by others: make no more   2  none is made now
 * RATE calls a second, or, where it is 0, bursts as fast as they go; MOST at most.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 2000, MOST = 100000 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void call(int which, uint64_t number)
{
    if (which == 0)
        lseek(-1, number, SEEK_SET);
    else if (which == 1)
        readahead(-1, number, 0);
    else if (ftruncate(-1, number))
        return;
}

int main(int count, char **words)
{
    volatile uint64_t *page;
    uint64_t life, due;
    int probes, rate, file;
    double seconds, began;

    if (count != 6 || (file = open(words[1], O_RDWR)) < 0)
        return 2;
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        return 2;
    life = strtoull(words[2], NULL, 10) << 40;
    probes = atoi(words[3]);
    rate = atoi(words[4]);
    seconds = atof(words[5]);
    for (began = now(); now() < began + seconds && !page[1];) {
        due = rate ? (uint64_t)((now() - began) * rate) : page[0] + BURST;
        while (page[0] < due && page[0] < MOST && !page[1]) {
            uint64_t number = page[0];

            page[0] = number + 1;
            call(number % probes, life | number);
        }
        nanosleep(&(struct timespec){0, rate ? 1000000 : 5000000}, NULL);
    }
    page[2] = 1;
    while (page[1]) /* whoever asked us to stop ends us */
        pause();
    _exit(0);
}
