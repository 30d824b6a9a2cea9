/*
 * The first process of a test guest: makes the host's root file system the guest's, runs one command, powers off.
 *
 * Invariants: the host's files are never written (read-only virtiofs under an overlay on tmpfs); the one folder that both
 * sides write is the share. The share holds what run.py asks for (command, environment: NUL-separated) and
 * what comes back (began: empty, once the command does; status: "exit N" or "signal N"; no such file: the guest
 * died). tracefs and debugfs stay unmounted.
 * The kernel hands parameters it does not know to its first process as environment: share, modules, cwd.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const char *share;

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void fail(const char *format, ...)
{
	va_list args;
	int error = errno;

	va_start(args, format);
	fprintf(stderr, "init: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, ": %s\n", strerror(error));
	va_end(args);
	power_off();
}

static void make_directories(const char *path)
{
	char part[4096];

	snprintf(part, sizeof part, "%s", path);
	for (char *slash = part + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		mkdir(part, 0755);
		*slash = '/';
	}
	mkdir(part, 0755);
}

static void mount_or_fail(const char *source, const char *target, const char *type, unsigned long flags,
			  const char *options)
{
	make_directories(target);
	if (mount(source, target, type, flags, options))
		fail("mount %s on %s", type, target);
}

/* The modules stand in /modules/NN-name.ko; /modules/order names them one a line, each after what it needs. */
static void load_modules(void)
{
	char name[256], path[300];
	FILE *order = fopen("/modules/order", "r");

	while (order && fscanf(order, "%255s", name) == 1) {
		snprintf(path, sizeof path, "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			fail("load %s", name);
		close(fd);
	}
	if (order)
		fclose(order);
}

/* Devices may appear a little after their driver. */
static void mount_host(const char *tag, const char *target, unsigned long flags)
{
	make_directories(target);
	for (int tries = 0; mount(tag, target, "virtiofs", flags, NULL); tries++) {
		if (tries == 200)
			fail("mount virtiofs %s", tag);
		usleep(50000);
	}
}

static void make_root(void)
{
	char target[4096];

	mount_host("host", "/lower", MS_RDONLY);
	mount_or_fail("tmpfs", "/writes", "tmpfs", 0, "mode=0755");
	make_directories("/writes/upper");
	make_directories("/writes/work");
	mount_or_fail("overlay", "/root", "overlay", 0, "lowerdir=/lower,upperdir=/writes/upper,workdir=/writes/work");

	mount_or_fail("proc", "/root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_fail("sysfs", "/root/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_fail("devtmpfs", "/root/dev", "devtmpfs", MS_NOSUID, NULL);
	mount_or_fail("devpts", "/root/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666");
	mount_or_fail("tmpfs", "/root/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
	mount_or_fail("tmpfs", "/root/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	if (mount("bpf", "/root/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
		perror("init: no bpf file system");

	snprintf(target, sizeof target, "/root%s", share);
	mount_host("share", target, 0);
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("enter the root");

	const char *modules = getenv("modules");
	if (modules && *modules) {
		snprintf(target, sizeof target, "/lib/modules/%s", strrchr(modules, '/') + 1);
		mount_or_fail(modules, target, NULL, MS_BIND, NULL);
	}
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request))
		fail("find the loopback interface");
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		fail("bring the loopback interface up");
	close(fd);
}

/* A NUL-separated file of the share as a NULL-terminated list of strings. */
static char **read_list(const char *name)
{
	char path[4096];
	static char text[2][262144];
	static char *lists[2][4096];
	static int used;

	snprintf(path, sizeof path, "%s/%s", share, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *start = text[used], **list = lists[used++];
	ssize_t length = fd < 0 ? -1 : read(fd, start, sizeof text[0] - 1);
	if (length < 0)
		fail("read %s", path);
	close(fd);
	size_t count = 0;
	for (char *item = start; item < start + length && count < 4095; item += strlen(item) + 1)
		list[count++] = item;
	return list;
}

static void become_command(int output)
{
	char **command = read_list("command");
	const char *cwd = getenv("cwd");
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	environ = read_list("environment");
	setsid();
	dup2(nothing, 0);
	dup2(output, 1);
	dup2(output, 2);
	if (chdir(cwd ? cwd : "/"))
		perror(cwd);
	else {
		execvp(command[0], command);
		perror(command[0]);
	}
	_exit(127);
}

static void write_fully(int fd, const char *data, ssize_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, data, length);
		if (written < 0 && errno != EINTR)
			return;
		if (written > 0) {
			data += written;
			length -= written;
		}
	}
}

/*
 * Copies the command's output to the second serial line until the command (not what it left behind) has ended.
 * A pipe stands between them so that the command does not take the serial line for a person's terminal.
 */
static int run(void)
{
	char buffer[65536];
	int ends[2], status = 0, ended = 0;
	struct termios mode;
	int line = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (line < 0 || tcgetattr(line, &mode) || pipe2(ends, O_CLOEXEC))
		fail("open the output line");
	cfmakeraw(&mode);
	tcsetattr(line, TCSANOW, &mode);
	pid_t child = fork();
	if (child == 0)
		become_command(ends[1]);
	close(ends[1]);
	for (struct pollfd wait = { .fd = ends[0], .events = POLLIN };;) {
		int ready = poll(&wait, 1, ended ? 0 : 100);
		ssize_t length = ready > 0 ? read(ends[0], buffer, sizeof buffer) : 0;
		if (length > 0)
			write_fully(line, buffer, length);
		else if (ended)
			break;
		else if (ready > 0) /* every writer is gone: only the end of the command is left to wait for */
			wait.fd = -1;
		int reaped_status;
		for (pid_t reaped; (reaped = waitpid(-1, &reaped_status, WNOHANG)) > 0;)
			if (reaped == child) {
				status = reaped_status;
				ended = 1;
			}
	}
	tcdrain(line);
	return status;
}

/* A file of the share: it is there, whole, when this returns. */
static void write_file(const char *name, const char *text, int length)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/%s", share, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, length) != length || fsync(fd))
		fail("write %s", path);
	close(fd);
}

static void report(int status)
{
	char text[32];

	int length = WIFSIGNALED(status) ? snprintf(text, sizeof text, "signal %d\n", WTERMSIG(status))
					 : snprintf(text, sizeof text, "exit %d\n", WEXITSTATUS(status));
	write_file("status", text, length);
}

int main(void)
{
	struct rlimit files = { 1024, 1048576 };

	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	int console = open("/dev/console", O_RDWR);
	for (int fd = 0; fd < 3; fd++)
		dup2(console, fd);
	share = getenv("share");
	if (!share) {
		errno = EINVAL;
		fail("no share= on the kernel's command line");
	}
	load_modules();
	make_root();
	loopback_up();
	sethostname("guest", 5);
	setrlimit(RLIMIT_NOFILE, &files);
	write_file("began", "", 0);
	report(run());
	power_off();
}
