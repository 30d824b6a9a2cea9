/*
 * load N [RATE]: calls getppid N times as fast as it can, or RATE times a second; prints how many million calls a
 * second that made, on standard error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000000;
	double rate = argc > 2 ? atof(argv[2]) : 0, start = now();

	for (long i = 0; i < n; i++) {
		if (rate > 0 && i % 64 == 0) /* a few at a time: asking the clock takes as long as a call */
			while ((double)i > (now() - start) * rate)
				;
		syscall(SYS_getppid);
	}
	fprintf(stderr, "load %.3f\n", (double)n / (now() - start) / 1e6);
	return 0;
}
