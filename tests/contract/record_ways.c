// SPDX-License-Identifier: BSD-2-Clause
/*
 * The many ways by which a program reaches /dev/kvm and its descriptors: by other calls than open() and ioctl(), by number, in
 * threads, through exec. On softkvm they are what the preloaded library must catch.
 */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a descriptor is good for; closes it. */
static void say_fd(const char *key, int fd)
{
	if (fd < 0)
		say(key, "%s", strerrorname_np(errno));
	else
		say_result(key, call_number(fd, KVM_GET_API_VERSION, 0));
	close(fd);
}

static void opening(void)
{
	struct open_how how = {.flags = O_RDWR | O_CLOEXEC};
	int dev = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	say_fd("open: read-only", open("/dev/kvm", O_RDONLY));
	say_fd("open: openat", openat(AT_FDCWD, "/dev/kvm", O_RDWR));
	say_fd("open: openat of a directory", openat(dev, "kvm", O_RDWR));
	say_fd("open: by number", (int)syscall(SYS_open, "/dev/kvm", O_RDWR));
	say_fd("open: openat by number", (int)syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR));
	say_fd("open: openat2", (int)syscall(SYS_openat2, dev, "kvm", &how, sizeof(how)));
	say_fd("open: no such file", openat(dev, "kvm2", O_RDWR));
	close(dev);
}

static void asking(void)
{
	struct statx stx = {0};
	struct stat st = {0};

	say_result("access: read and write", access("/dev/kvm", R_OK | W_OK));
	say_result("access: execute", access("/dev/kvm", X_OK) ? -errno : 0);
	say_result("access: faccessat", faccessat(AT_FDCWD, "/dev/kvm", R_OK | W_OK, AT_EACCESS));
	say_result("access: eaccess", eaccess("/dev/kvm", R_OK | W_OK));
	say_result("access: by number", (int)syscall(SYS_access, "/dev/kvm", R_OK | W_OK));
	say_result("stat: lstat", lstat("/dev/kvm", &st));
	say("stat: lstat says", "%d %lx", S_ISCHR(st.st_mode), (unsigned long)st.st_rdev);
	memset(&st, 0, sizeof(st));
	say_result("stat: fstatat of a descriptor", fstatat(kvm_fd, "", &st, AT_EMPTY_PATH));
	say("stat: fstatat says", "%d %lx", S_ISCHR(st.st_mode), (unsigned long)st.st_rdev);
	memset(&st, 0, sizeof(st));
	say_result("stat: by number", (int)syscall(SYS_stat, "/dev/kvm", &st));
	say("stat: by number says", "%d %lx", S_ISCHR(st.st_mode), (unsigned long)st.st_rdev);
	say_result("stat: statx", statx(AT_FDCWD, "/dev/kvm", 0, STATX_BASIC_STATS, &stx));
	say("stat: statx says", "%d %x %x", S_ISCHR(stx.stx_mode), stx.stx_rdev_major, stx.stx_rdev_minor);
}

static void copying(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_regs regs;
	int copy = dup2(m.vcpu, 200), other = dup3(m.vcpu, 201, O_CLOEXEC);

	say_result("copy: dup2", call(copy, KVM_GET_REGS, &regs));
	say_result("copy: dup3", call(other, KVM_GET_REGS, &regs));
	say_result("copy: dup2 onto it", dup2(0, 200));
	say_result("copy: what was under it", call(200, KVM_GET_REGS, &regs));
	say_result("copy: dup2 of itself", dup2(other, other));
	say_result("copy: by number", call((int)syscall(SYS_fcntl, other, F_DUPFD, 210), KVM_GET_REGS, &regs));
	say_result("copy: close_range", close_range(200, 250, 0));
	say_result("copy: after close_range", call(other, KVM_GET_REGS, &regs));
	say_result("copy: ioctl by number", (int)syscall(SYS_ioctl, m.vcpu, KVM_GET_REGS, &regs));
	say_result("copy: ioctl by number, refused", syscall(SYS_ioctl, m.vcpu, KVM_GET_REGS, 8) ? -errno : 0);
	machine_free(&m);
}

static void waiting(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct epoll_event event = {.events = EPOLLIN};
	int fds[] = {kvm_fd, m.vm, m.vcpu}, epoll = epoll_create1(EPOLL_CLOEXEC);
	struct timeval none = {0};

	for (unsigned i = 0; i < 3; i++) {
		fd_set set;
		char key[64];

		FD_ZERO(&set);
		FD_SET(fds[i], &set);
		snprintf(key, sizeof(key), "wait: select of descriptor %u", i);
		say_result(key, select(fds[i] + 1, &set, NULL, NULL, &none));
		snprintf(key, sizeof(key), "wait: epoll of descriptor %u", i);
		say_result(key, epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) ? -errno : 0);
	}
	close(epoll);
	machine_free(&m);
}

GUEST(around, "1: incl 0x5000; jmp 1b");

struct kicker {
	struct machine *m;
	pthread_t runner;
	pid_t runner_tid;
	bool by_tgkill;
};

static volatile int arrived;

static void arrive(int number)
{
	arrived++;
}

/* Once the guest is seen to run. */
static void *kick(void *arg)
{
	struct kicker *k = arg;
	volatile uint32_t *counter = (uint32_t *)(k->m->ram + 0x5000);

	for (uint32_t before = *counter, i = 0; *counter == before && i < 20000; i++)
		usleep(1000);
	if (k->by_tgkill)
		syscall(SYS_tgkill, getpid(), k->runner_tid, SIGUSR1);
	else
		pthread_kill(k->runner, SIGUSR1);
	return NULL;
}

static void kicks(void)
{
	static const char *const names[] = {"kick: pthread_kill", "kick: tgkill", "kick: SA_RESTART", "kick: set by number"};
	struct sigaction action = {.sa_handler = arrive};
	struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } raw, old;

	for (unsigned way = 0; way < 4; way++) {
		struct machine m = machine_new(NO_IRQCHIP);
		struct kicker k = {&m, pthread_self(), gettid(), way == 1};
		pthread_t thread;
		int before = arrived;

		action.sa_flags = way == 2 ? SA_RESTART : 0;
		sigaction(SIGUSR1, &action, NULL);
		if (way == 3) { /* the same once more, as the kernel has it */
			say_result("kick: action by number", (int)syscall(SYS_rt_sigaction, SIGUSR1, NULL, &old, 8));
			raw = old;
			syscall(SYS_rt_sigaction, SIGUSR1, &raw, NULL, 8);
		}
		LOAD(&m, around);
		pthread_create(&thread, NULL, kick, &k);
		say_result(names[way], machine_run(&m));
		pthread_join(thread, NULL);
		say("kick: exit reason and handler", "%d", m.run->exit_reason == KVM_EXIT_INTR && arrived == before + 1);
		machine_free(&m);
	}
}

/* The descriptors of VMs and vCPUs close on exec; that of /dev/kvm does if it was asked to. */
static void through_exec(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	char text[256];
	int status = 0, open_fd = open("/dev/kvm", O_RDWR);

	snprintf(text, sizeof(text), "for fd in %d %d %d %d; do [ -e /proc/self/fd/$fd ] && s=$s,open || s=$s,closed; done; echo exec = $s",
		 kvm_fd, m.vm, m.vcpu, open_fd);
	fflush(stdout);
	if (!fork()) {
		execl("/bin/sh", "sh", "-c", text, NULL);
		_exit(127);
	}
	wait(&status);
	say("exec: status", "%x", status);
	close(open_fd);
	machine_free(&m);
}

/* --- children --- */

static int status_of(pid_t child)
{
	int status = 0;

	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* A VM is its memory's: a child of vfork() has the same. */
static void children(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_regs regs;
	pid_t child;

	fflush(stdout);
	child = (pid_t)syscall(SYS_fork);
	if (!child)
		_exit(-call(m.vcpu, KVM_GET_REGS, &regs));
	say("child: by number", "%d", status_of(child));
	child = vfork();
	if (!child)
		_exit(-call(m.vcpu, KVM_GET_REGS, &regs));
	say("child: of vfork", "%d", status_of(child));
	say_result("child: and its parent", call(m.vcpu, KVM_GET_REGS, &regs));
	machine_free(&m);
}

GUEST(output, "movw $1000, %cx; 1: outb %al, $0x40; incl 0x5000; loop 1b; hlt");

/* What the vCPU's thread of a VMM that trusts nobody may still do. */
static int forbid_the_rest(void)
{
	static const int allowed[] = {SYS_ioctl, SYS_futex, SYS_clock_gettime, SYS_rt_sigreturn, SYS_exit_group};
	enum { COUNT = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter code[2 * COUNT + 2];
	struct sock_fprog program = {2 * COUNT + 2, code};

	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0 /* the number */);
	for (unsigned k = 0; k < COUNT; k++) {
		code[2 * k + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[k], 0, 1);
		code[2 * k + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[2 * COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int run_filtered(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	unsigned exits = 0;

	LOAD(&m, output);
	if (machine_run(&m) || forbid_the_rest())
		return 1;
	while (!machine_run(&m) && m.run->exit_reason == KVM_EXIT_IO)
		exits++;
	return m.run->exit_reason == KVM_EXIT_HLT && exits == 999 ? 0 : 2;
}

static void filtered(void)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		_exit(run_filtered());
	}
	say("filter of system calls: KVM_RUN", "%d", status_of(child));
}

/* Mappings that are changed by number. */
static void mappings(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, around);
	syscall(SYS_munmap, m.ram + 0x5000, 4096);
	say_result("munmap by number: KVM_RUN", machine_run(&m));
	machine_free(&m);
}

void record_ways(void)
{
	opening();
	asking();
	copying();
	waiting();
	kicks();
	through_exec();
	children();
	filtered();
	mappings();
}
