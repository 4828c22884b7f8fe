/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program that leans on everything a CPU and a kernel owe to user space, and prints only what must be the same on
 * every machine. The test runs this one static binary on the host and in the guest and compares the two outputs,
 * line by line. Each part is one function in the table at the end; a part that hangs is killed by alarm().
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

static uint64_t hash_bytes(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint64_t hash = 0xcbf29ce484222325;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3;
	return hash;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void do_integers(void)
{
	static uint64_t values[50000];
	uint64_t state = 42, sum = 0;
	const size_t n = sizeof(values) / sizeof(*values);

	for (size_t i = 0; i < n; i++)
		values[i] = random_next(&state);
	qsort(values, n, sizeof(*values), compare_u64);
	for (size_t i = 1; i < n; i++) {
		unsigned __int128 wide = (unsigned __int128)values[i] * values[i - 1];

		sum += (uint64_t)(wide >> 64) / (values[i] % 1000 + 1) + (uint64_t)__builtin_popcountll(values[i]);
		sum = (sum << 7 | sum >> 57) ^ (uint64_t)((int64_t)values[i] / -12345) ^ __builtin_bswap64(sum);
	}
	printf("sorted %016lx folded %016lx\n", hash_bytes(values, sizeof(values)), sum);
}

static void do_doubles(void)
{
	double x = 0.5, sum = 0, product = 1;
	float single = 1.0f / 3;

	for (int i = 1; i < 20000; i++) {
		x = 3.9 * x * (1 - x);
		sum += sin(x) * exp(-x) / sqrt(i) + fma(x, i, 0.25);
		product *= 1 + x / i;
		single = single * 1.0001f + (float)x / (float)i;
	}
	printf("%a %a %a pow %a log %a nan %d inf %a denormal %a\n", sum, product, (double)single, pow(1.1, 77.7),
	       log(sum), isnan(NAN * sum), 1 / (x - x), 0x1p-1070 * x);
}

static void do_long_doubles(void)
{
	volatile long double seed = 0.3L;
	long double x = seed, sum = 0;

	for (int i = 1; i < 20000; i++) {
		x = 3.7L * x * (1 - x);
		sum += sqrtl(x) / i + fmodl(x * 1000, 7);
	}
	printf("%La %La %La %lld\n", sum, sinl(sum), expl(-x), (long long)(sum * 1e6L));
}

typedef float v8sf __attribute__((vector_size(32)));
typedef int v8si __attribute__((vector_size(32)));

static __attribute__((noinline)) void vector_body(float *out)
{
	v8sf a = { 1, 2, 3, 4, 5, 6, 7, 8 }, b = { .5f, .25f, 2, 4, 8, 16, 3, 9 };
	v8si k = { 1, 3, 5, 7, 9, 11, 13, 15 };

	for (int i = 0; i < 5000; i++) {
		a = a * b - a / (b + 1);
		a = (v8sf)((v8si)(a + b) & (a < 1000));
		k = k * 1103515245 + 12345;
		a += __builtin_convertvector(k >> 24, v8sf) * 0.001f;
	}
	__builtin_memcpy(out, &a, sizeof(a));
}

static void do_vectors(void)
{
	float out[8];
	char *text = malloc(100000);

	vector_body(out);
	memset(text, 'x', 99999);
	text[99999] = 0;
	memmove(text + 3, text, 5000);
	text[77777] = 'y';
	printf("%016lx strlen %zu strchr %ld memcmp %d\n", hash_bytes(out, sizeof(out)), strlen(text),
	       (long)(strchr(text, 'y') - text), memcmp(text, text + 1, 90000) != 0);
	free(text);
}

static void do_processes(void)
{
	int status, total = 0;

	for (int i = 0; i < 40; i++) {
		pid_t child = fork();

		if (!child)
			_exit(i);
		if (waitpid(child, &status, 0) == child && WIFEXITED(status))
			total += WEXITSTATUS(status);
	}
	printf("sum of exit statuses %d\n", total);
}

static void do_exec(void)
{
	int status = 0;
	pid_t child;

	fflush(stdout);
	child = vfork();
	if (!child) {
		execl("/proc/self/exe", "work", "--echo", "through", "exec", NULL);
		_exit(99);
	}
	waitpid(child, &status, 0);
	printf("exec status %x\n", status);
	child = fork();
	if (!child) {
		execl("/does/not/exist", "x", NULL);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	printf("exec of nothing %d\n", WEXITSTATUS(status));
}

static void do_pipes(void)
{
	int fds[2];
	static char block[70000];
	uint64_t total = 0, hash = 0;
	ssize_t n;

	if (pipe(fds))
		return;
	fflush(stdout);
	if (!fork()) {
		close(fds[0]);
		for (int i = 0; i < 30; i++) {
			memset(block, 'a' + i % 26, sizeof(block));
			if (write(fds[1], block, sizeof(block)) < 0)
				_exit(1);
		}
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], block, sizeof(block))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			hash = hash * 31 + (uint8_t)block[i];
		total += (uint64_t)n;
	}
	close(fds[0]);
	wait(NULL);
	printf("%lu bytes %016lx\n", total, hash);
}

static volatile sig_atomic_t signals_seen, timer_ticks;
static sigjmp_buf escape;
static volatile uintptr_t fault_address;

static void count_signal(int sig)
{
	signals_seen += sig;
}

static void count_tick(int sig)
{
	timer_ticks++;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	fault_address = (uintptr_t)info->si_addr;
	siglongjmp(escape, sig);
}

static void catch_faults(int sig)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	sigaction(sig, &action, NULL);
}

static void do_signals(void)
{
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
	double x = 1;
	sigset_t set, old;

	signal(SIGUSR1, count_signal);
	for (int i = 0; i < 2000; i++)
		raise(SIGUSR1);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	kill(getpid(), SIGUSR1);
	int before = signals_seen;
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("raised %d, blocked %d, then %d\n", 2000 * SIGUSR1, before, signals_seen);

	/* floating-point state must survive interruption by handlers that use it */
	signal(SIGALRM, count_tick);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (timer_ticks < 25)
		x = x * 1.0 + 0.0;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	printf("ticked %d, x %a\n", timer_ticks >= 25, x);
}

static const char *fault_name(int sig)
{
	return sig == 0 ? "nothing" : sig == SIGSEGV ? "SIGSEGV" : sig == SIGFPE ? "SIGFPE" : sig == SIGILL ? "SIGILL" :
	       sig == SIGBUS ? "SIGBUS" : sig == SIGTRAP ? "SIGTRAP" : "?";
}

static void do_faults(void)
{
	volatile int zero = 0;
	volatile char *none = (char *)0x1234;
	static volatile uint64_t place[2];
	int sig;

	catch_faults(SIGSEGV), catch_faults(SIGFPE), catch_faults(SIGILL), catch_faults(SIGTRAP), catch_faults(SIGBUS);
	if (!(sig = sigsetjmp(escape, 1)))
		zero = 1234 / zero;
	printf("divide %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		*none = 1;
	printf("write %s at %lx\n", fault_name(sig), fault_address);
	if (!(sig = sigsetjmp(escape, 1)))
		__asm__ volatile("ud2");
	printf("ud2 %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		__asm__ volatile("hlt");
	printf("hlt %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		__asm__ volatile("int3");
	printf("int3 %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		((void (*)(void))(uintptr_t)0x8000000000000000)();
	printf("call of a non-canonical address %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		__asm__ volatile("pushf; orq $0x40000, (%%rsp); popf; movl 1(%0), %%eax" : : "r"(place) : "rax", "cc", "memory");
	__asm__ volatile("pushf; andq $~0x40000, (%%rsp); popf" : : : "cc", "memory");
	printf("unaligned with AC %s\n", fault_name(sig));
}

static void do_memory(void)
{
	const size_t size = 64 * PAGE;
	uint8_t *volatile private = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int sig, status;

	memset(private, 1, size);
	fflush(stdout);
	if (!fork()) {
		memset(private, 2, size);
		memset(shared, 3, size);
		_exit(private[size - 1] + shared[0]);
	}
	wait(&status);
	printf("copy on write %d shared %d child %d\n", private[100], shared[size - 1], WEXITSTATUS(status));

	catch_faults(SIGSEGV);
	mprotect(private + PAGE, PAGE, PROT_READ);
	if (!(sig = sigsetjmp(escape, 1)))
		((volatile uint8_t *)private)[PAGE + 5] = 9;
	printf("read-only %s at +%lx reads %d\n", fault_name(sig), fault_address - (uintptr_t)private, private[PAGE + 5]);
	munmap(private + 2 * PAGE, PAGE);
	if (!(sig = sigsetjmp(escape, 1)))
		sig = -(int)((volatile uint8_t *)private)[3 * PAGE - 1];
	printf("unmapped %s\n", fault_name(sig));
	if (!(sig = sigsetjmp(escape, 1)))
		((void (*)(void))(void *)private)();
	printf("not executable %s\n", fault_name(sig));
	private = mremap(private, PAGE, 8 * PAGE, MREMAP_MAYMOVE);
	printf("moved %d zero %d\n", private[10], private[7 * PAGE]);
}

static void do_made_code(void)
{
	uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int total = 0;

	for (int i = 0; i < 300; i++) {
		code[0] = 0xb8; /* mov $i, %eax; ret */
		memcpy(code + 1, &i, 4);
		code[5] = 0xc3;
		total += ((int (*)(void))(void *)code)();
	}
	printf("made code returned %d\n", total);
}

static void do_files(void)
{
	char name[] = "/tmp/guise-work-XXXXXX";
	int fd = mkstemp(name);
	static uint8_t data[300000];
	uint64_t state = 7;
	struct stat status;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)random_next(&state);
	printf("wrote %zd\n", write(fd, data, sizeof(data)));
	uint8_t *map = mmap(NULL, sizeof(data), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	map[12345] ^= 0xff;
	printf("pread %zd same %d\n", pread(fd, data, 1000, 12000), data[345] == map[12345]);
	if (ftruncate(fd, 100) || fstat(fd, &status))
		return;
	printf("size %ld hash %016lx\n", (long)status.st_size, hash_bytes(map, 100));
	unlink(name);
	close(fd);
}

static atomic_uint_fast64_t atomic_total;
static uint64_t locked_total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn;
static __thread uint64_t mine;

static void *count_together(void *argument)
{
	for (int i = 0; i < 50000; i++) {
		atomic_fetch_add(&atomic_total, 3);
		mine++;
		if (!(i % 4)) {
			pthread_mutex_lock(&lock);
			locked_total += mine & 1 ? 1 : 2;
			pthread_mutex_unlock(&lock);
		}
	}
	return (void *)(uintptr_t)mine;
}

static void *take_turns(void *argument)
{
	int me = (int)(intptr_t)argument;

	for (int i = 0; i < 500; i++) {
		pthread_mutex_lock(&lock);
		while (turn % 2 != me)
			pthread_cond_wait(&turn_changed, &lock);
		turn++;
		pthread_cond_broadcast(&turn_changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void do_threads(void)
{
	pthread_t threads[8];
	void *result;
	uintptr_t sum = 0;

	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, count_together, NULL);
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], &result);
		sum += (uintptr_t)result;
	}
	printf("atomic %lu locked %lu own %lu\n", (unsigned long)atomic_total, locked_total, sum);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, take_turns, (void *)(intptr_t)i);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("turns %d\n", turn);
}

static void do_sockets(void)
{
	int server = socket(AF_INET, SOCK_STREAM, 0), pair[2], event = eventfd(5, 0), poll_fd = epoll_create1(0);
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t length = sizeof(address);
	struct epoll_event ready;
	char text[64] = "";

	if (bind(server, (void *)&address, sizeof(address)) || listen(server, 1) || getsockname(server, (void *)&address, &length))
		return;
	fflush(stdout);
	if (!fork()) {
		int client = socket(AF_INET, SOCK_STREAM, 0);

		_exit(connect(client, (void *)&address, sizeof(address)) || write(client, "over loopback", 13) != 13);
	}
	int peer = accept(server, NULL, NULL);
	ssize_t n = recv(peer, text, 13, MSG_WAITALL);
	wait(NULL);
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
	send(pair[0], "abcdef", 6, 0);
	epoll_ctl(poll_fd, EPOLL_CTL_ADD, event, &(struct epoll_event){ .events = EPOLLIN, .data.u32 = 77 });
	int count = epoll_wait(poll_fd, &ready, 1, 1000);
	printf("tcp %zd '%s' epoll %d %u", n, text, count, ready.data.u32);
	n = recv(pair[1], text, sizeof(text), 0);
	printf(" seqpacket %zd '%.6s'\n", n, text);
}

static void do_time(void)
{
	struct timespec a, b, pause = { 0, 30000000 };
	int backwards = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	long slept = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
	for (int i = 0; i < 20000; i++) {
		a = b;
		clock_gettime(CLOCK_MONOTONIC, &b);
		backwards += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
	}
	printf("slept at least 30 ms %d, at most 20 s %d, clock went back %d times\n", slept >= 30000000, slept < 20000000000, backwards);
}

static void do_single_step(void)
{
	int status, steps = 0;
	pid_t child = fork();

	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		__asm__ volatile("int3; mov $20, %%ecx; 1: dec %%ecx; jnz 1b; pushf; popf; mov $3, %%ecx; xor %%eax, %%eax; lea -128(%%rsp), %%rdi; "
				 "cld; rep stosb; int3" : : : "rcx", "rax", "rdi", "cc", "memory");
		_exit(0);
	}
	waitpid(child, &status, 0);
	do {
		ptrace(PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
		steps++;
	} while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && steps < 1000 &&
		 (ptrace(PTRACE_PEEKTEXT, child, ptrace(PTRACE_PEEKUSER, child, 16 * 8, 0) - 1, 0) & 0xff) != 0xcc);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	printf("single steps %d\n", steps);
}

/*
 * 32-bit code in a 64-bit process: a far call through the kernel's compatibility segment, on a stack below 4 GiB.
 * And the old system call. The program is linked below 4 GiB (-static, not PIE), so the far return finds its way.
 */
static void do_compat(void)
{
	static const uint8_t body[] = {
		0xb8, 0x01, 0x00, 0x00, 0x00, /* mov $1, %eax */
		0x40,			      /* inc %eax: a REX prefix in 64-bit mode */
		0x50,			      /* push %eax: 4 bytes */
		0x6b, 0x04, 0x24, 0x14,	      /* imul $20, (%esp), %eax */
		0x83, 0xc4, 0x04,	      /* add $4, %esp */
		0x40, 0x40,		      /* inc %eax, twice */
		0xcb,			      /* lret */
	};
	struct far_pointer {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed));
	uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	static struct far_pointer target;
	static uint64_t old_rsp, low_rsp;
	static volatile long result, pid = 20;
	int sig;

	memcpy(code, body, sizeof(body));
	target = (struct far_pointer){ (uint32_t)(uintptr_t)code, 0x23 };
	low_rsp = (uintptr_t)code + PAGE;
	catch_faults(SIGSEGV), catch_faults(SIGILL);
	if (!(sig = sigsetjmp(escape, 1)))
		__asm__ volatile("mov %%rsp, %1; mov %2, %%rsp; lcall *%3; mov %1, %%rsp; mov %%rax, %0"
				 : "=m"(result), "+m"(old_rsp) : "m"(low_rsp), "m"(target)
				 : "rax", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	printf("32-bit code %s %ld\n", fault_name(sig), result);
	__asm__ volatile("int $0x80" : "=a"(pid) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
	printf("int 0x80 getpid %d\n", pid == getpid());
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "integers", do_integers }, { "doubles", do_doubles },	  { "long doubles", do_long_doubles },
	{ "vectors", do_vectors },   { "processes", do_processes }, { "exec", do_exec },
	{ "pipes", do_pipes },	     { "signals", do_signals },	  { "faults", do_faults },
	{ "memory", do_memory },     { "made code", do_made_code }, { "files", do_files },
	{ "threads", do_threads },   { "sockets", do_sockets },	  { "time", do_time },
	{ "single step", do_single_step }, { "compat", do_compat },
};

int main(int argc, char **argv)
{
	int status = 0;

	if (argc > 1 && !strcmp(argv[1], "--echo")) {
		printf("%s %s\n", argv[2], argv[3]);
		return 0;
	}
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		printf("WORK %s: ", parts[i].name);
		fflush(stdout);
		if (!fork()) {
			alarm(120);
			parts[i].run();
			exit(0);
		}
		wait(&status);
		printf("WORK %s ends %x\n", parts[i].name, status);
	}
	puts("WORK DONE");
	return 0;
}
