/* Prints how many thousand times a second the counter of the processor (rdtsc) ticks.
 *
 * QEMU gives its guests this counter as it is. A guest that finds its rate by itself, while other
 * work takes the processor from it, finds another one, and then has a clock that is fast or slow by any factor.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

enum { TRIES = 1000, APART = 100000000 }; /* nanoseconds between the two looks */

struct look {
  int64_t nanoseconds;
  uint64_t ticks;
};

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC_RAW, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Both clocks in one moment: of many tries the one that took the least time, so that nothing came between. */
static struct look look(void) {
  struct look best = {0, 0};
  int64_t least = INT64_MAX;
  for (int i = 0; i < TRIES; i++) {
    int64_t before = now();
    uint64_t ticks = __rdtsc();
    int64_t after = now();
    if (after - before < least) {
      least = after - before;
      best = (struct look){before + least / 2, ticks};
    }
  }
  return best;
}

int main(void) {
  struct look first = look();
  nanosleep(&(struct timespec){0, APART}, NULL);
  struct look last = look();
  double milliseconds = (last.nanoseconds - first.nanoseconds) / 1e6;
  printf("%.0f\n", (last.ticks - first.ticks) / milliseconds);
}
