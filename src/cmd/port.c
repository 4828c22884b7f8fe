/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guise port: opens a port, or two, and makes, counts, checks, reflects, answers or forwards packets. For trying out and
 * measuring what is at the other end, as far as that needs no virtual machine.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "cmd/commands.h"
#include "cmd/port_frames.h"
#include "cmd/port_work.h"

enum { NO_CPU = 1000000, QUARTER_NS = 250000000 };

struct arguments {
	bool help, json, poll, check, offloads;
	unsigned mode, size, burst, seconds, wait, cpu;
	const char *rate, *count;
};

static const char usage[] =
	"Usage: guise port [OPTION...] PORT [PORT]\n\n"
	"Moves packets through a port, or between two, until a signal comes or as long as told.\n\n"
	"PORT is one of\n"
	"  vhost-user:PATH[,server][,packed][,queues=N][,size=N][,mtu=N][,mac=MAC]\n"
	"                             drive the virtqueues of a vhost-user back end\n"
	"  vhost-user:PATH,back[,client][,no-packed][,queues=N][,size=N][,mtu=N]\n"
	"                             be a vhost-user back end: of a VM, a container, virtio_user\n"
	"  vhost-kernel:/dev/vhost-net,iface=TAP[,packed][,queues=N][,size=N]\n"
	"                             drive the host kernel's vhost on a TAP interface\n"
	"  tap:NAME[,queues=N][,no-io-uring]\n"
	"                             a TAP interface\n"
	"  user[,fwd=tcp:8080:80]     user-mode NAT\n"
	"vhost-user ports also take no-in-order, no-mergeable and no-event-index.\n\n";

static struct option_def *table(struct arguments *a)
{
	static struct option_def t[14];
	struct option_def rows[] = {
		{ .name = "mode", .kind = OPTION_CHOICE, .value = &a->mode, .arg = "MODE", .choices = work_mode_names,
		  .help = "sink (default), send, exchange (both), reflect, echo (ARP and ping), forward (default with two ports)" },
		{ .name = "size", .kind = OPTION_UINT, .value = &a->size, .arg = "BYTES", .min = FRAME_LEAST, .max = 65535,
		  .help = "of the frames that are sent: 64" },
		{ .name = "burst", .kind = OPTION_UINT, .value = &a->burst, .arg = "N", .min = 1, .max = WORK_BURST,
		  .help = "packets at once: 32" },
		{ .name = "rate", .kind = OPTION_STRING, .value = &a->rate, .arg = "PPS", .help = "packets a second to send, per queue" },
		{ .name = "count", .kind = OPTION_STRING, .value = &a->count, .arg = "N", .help = "end after so many packets, per queue" },
		{ .name = "seconds", .kind = OPTION_UINT, .value = &a->seconds, .arg = "S", .min = 1, .max = 1000000, .help = "end after so long" },
		{ .name = "check", .kind = OPTION_FLAG, .value = &a->check, .help = "fill the frames that are sent, check the contents of what comes" },
		{ .name = "offloads", .kind = OPTION_FLAG, .value = &a->offloads,
		  .help = "take packets with checksums and segmentation undone (sink, reflect, forward)" },
		{ .name = "poll", .kind = OPTION_FLAG, .value = &a->poll, .help = "never sleep: a processor for each queue" },
		{ .name = "cpu", .kind = OPTION_UINT, .value = &a->cpu, .arg = "N", .min = 0, .max = 1023, .help = "run queue 0 there, queue 1 on the next..." },
		{ .name = "wait", .kind = OPTION_UINT, .value = &a->wait, .arg = "S", .min = 0, .max = 1000000, .help = "for the other side at first: 60" },
		{ .name = "json", .kind = OPTION_FLAG, .value = &a->json, .help = "report as JSON" },
	};

	memcpy(t, rows, sizeof(rows));
	return t;
}

static int order(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/* What has been measured, of all queues. */
struct result {
	double seconds, rate; /* rate: sum over queues of the millisecond that is better than four in five */
	double best;	      /* the best quarter of a second, packets per second of all queues */
	uint64_t sent, received, checked, damaged, out_of_order, unfinished_checksums, unsegmented;
};

static struct result add_up(struct work_queue *queue, unsigned n, double seconds)
{
	struct result r = { .seconds = seconds };

	for (unsigned k = 0; k < n; k++) {
		struct work_queue *w = &queue[k];

		qsort(w->window, w->n_windows, sizeof(w->window[0]), order);
		r.rate += w->n_windows ? (double)w->window[w->n_windows * 4 / 5] : 0;
		r.sent += w->sent;
		r.received += w->received;
		r.checked += w->checked;
		r.damaged += w->damaged;
		r.out_of_order += w->out_of_order;
		r.unfinished_checksums += w->unfinished_checksums;
		r.unsegmented += w->unsegmented;
	}
	return r;
}

static void report(const struct work *work, const struct result *r, bool json)
{
	printf(json ? "{\"mode\": \"%s\", \"seconds\": %.3f, \"rate\": %.0f, \"best\": %.0f, \"sent\": %llu, \"received\": %llu, \"checked\": %llu, "
		      "\"damaged\": %llu, \"out_of_order\": %llu, \"unfinished_checksums\": %llu, \"unsegmented\": %llu, \"ports\": ["
		    : "%s for %.3f s; best fifth of milliseconds: %.0f packets/s, best quarter of a second: %.0f\nsent %llu, received %llu, checked %llu, damaged %llu, "
		      "out of order %llu, with unfinished checksums %llu, unsegmented %llu\n",
	       work_mode_names[work->mode], r->seconds, r->rate, r->best, (unsigned long long)r->sent, (unsigned long long)r->received,
	       (unsigned long long)r->checked, (unsigned long long)r->damaged, (unsigned long long)r->out_of_order,
	       (unsigned long long)r->unfinished_checksums, (unsigned long long)r->unsegmented);
	for (unsigned k = 0; k < 2 && work->port[k]; k++) {
		struct port_counters c;

		port_get_counters(work->port[k], &c);
		printf(json ? "%s{\"kind\": \"%s\", \"up\": %s, \"queues\": %u, \"tx_packets\": %llu, \"tx_bytes\": %llu, \"tx_dropped\": %llu, "
			      "\"rx_packets\": %llu, \"rx_bytes\": %llu, \"rx_dropped\": %llu}"
			    : "%s%s %s, %u queues: tx %llu packets, %llu bytes, %llu dropped; rx %llu packets, %llu bytes, %llu dropped\n",
		       json && k ? ", " : "", port_kind(work->port[k]), json ? (port_is_up(work->port[k]) ? "true" : "false") : (port_is_up(work->port[k]) ? "up" : "down"),
		       port_queues(work->port[k]), (unsigned long long)c.tx_packets, (unsigned long long)c.tx_bytes, (unsigned long long)c.tx_dropped,
		       (unsigned long long)c.rx_packets, (unsigned long long)c.rx_bytes, (unsigned long long)c.rx_dropped);
	}
	if (json)
		puts("]}");
}

/* Packets so far: received ones, unless there is only sending. */
static uint64_t so_far(const struct work_queue *queue, unsigned n)
{
	uint64_t packets = 0;

	for (unsigned k = 0; k < n; k++)
		packets += __atomic_load_n(queue->work->mode == WORK_SEND ? &queue[k].sent : &queue[k].received, __ATOMIC_RELAXED);
	return packets;
}

/* Of the ports the first that will not work again: its error. */
static int broken(const struct work *work)
{
	int err = 0;

	for (unsigned k = 0; k < 2 && work->port[k] && !err; k++)
		err = port_error(work->port[k]);
	return err;
}

/*
 * Until the time is over, a signal comes, a port breaks for good, or all queues have done their count. Meanwhile the best quarter of a
 * second is looked for.
 */
static void wait_for_end(struct work_queue *queue, unsigned n, unsigned seconds, const sigset_t *signals, double *best)
{
	uint64_t end = seconds ? now_ns() + seconds * 1000000000ull : UINT64_MAX, mark = now_ns(), packets = 0;
	bool all_done = false;

	while (now_ns() < end && !all_done && !broken(queue->work)) {
		struct timespec slice = { 0, 20000000 };
		uint64_t now = now_ns();

		if (now - mark >= QUARTER_NS) {
			uint64_t passed = so_far(queue, n);
			double rate = (double)(passed - packets) * 1e9 / (double)(now - mark);

			*best = rate > *best ? rate : *best;
			packets = passed;
			mark = now;
		}
		if (sigtimedwait(signals, NULL, &slice) > 0)
			return;
		all_done = true;
		for (unsigned k = 0; k < n; k++)
			all_done = all_done && atomic_load(&queue[k].done);
	}
}

static int run_queues(struct work *work, const struct arguments *a, const sigset_t *signals)
{
	unsigned n = port_queues(work->port[0]), started = 0;
	struct work_queue *queue;
	struct result r;
	uint64_t start = now_ns();
	double best = 0;
	int err = 0;

	if (work->port[1] && port_queues(work->port[1]) < n)
		n = port_queues(work->port[1]);
	queue = aligned_alloc(128, n * sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	memset(queue, 0, n * sizeof(*queue));
	for (; started < n && !err; started += !err) {
		queue[started] = (struct work_queue){ .work = work, .queue = started, .window = calloc(WINDOWS_MAX, sizeof(float)) };
		err = queue[started].window ? thread_start(&queue[started].thread, "port", "queue", work_run, &queue[started]) : -ENOMEM;
	}
	if (!err)
		wait_for_end(queue, n, a->seconds, signals, &best);
	work->stop = true;
	for (unsigned k = 0; k < started; k++)
		pthread_join(queue[k].thread, NULL);
	r = add_up(queue, started, (double)(now_ns() - start) * 1e-9);
	r.best = best;
	if (!err)
		report(work, &r, a->json);
	for (unsigned k = 0; k < started; k++)
		free(queue[k].window);
	free(queue);
	return err ? err : r.damaged ? -EBADMSG : broken(work);
}

/* Both ports up? One that will never be says so itself. */
static int wait_for_ports(struct work *work, unsigned seconds, const sigset_t *signals)
{
	uint64_t end = now_ns() + seconds * 1000000000ull;

	for (unsigned k = 0; k < 2 && work->port[k]; k++)
		while (port_wait(work->port[k], 100)) {
			if (sigtimedwait(signals, NULL, &(struct timespec){ 0 }) > 0)
				return -EINTR;
			if (port_error(work->port[k]))
				return port_error(work->port[k]);
			if (now_ns() >= end)
				return -ETIMEDOUT;
		}
	return 0;
}

/* Each port takes what the one that it is passed on to can take: the other one, or itself. 0/-errno. */
static int accept_offloads(struct work *work)
{
	int err = 0;

	for (unsigned k = 0; k < 2 && work->port[k] && !err; k++) {
		struct port *to = work->port[work->port[1] ? !k : k];
		unsigned offloads = port_receive_offloads(work->port[k]);

		if (work->mode != WORK_SINK)
			offloads &= port_send_offloads(to);
		err = port_set_receive_offloads(work->port[k], offloads);
	}
	if (err)
		log_error("port: cannot have offloads: %s", strerror(-err));
	return err;
}

/* Open ports are made ready for work. 0/-errno, said. */
static int make_ready(struct work *work, const struct arguments *a, const sigset_t *signals)
{
	int err = wait_for_ports(work, a->wait, signals);

	if (!err && work->offloads) {
		err = accept_offloads(work);
		if (!err)
			err = wait_for_ports(work, a->wait, signals);
	}
	if (err == -ETIMEDOUT)
		log_error("port: nobody at the other side for %u s", a->wait);
	else if (!err && a->size > port_mtu(work->port[0]) + 18u && work->mode != WORK_FORWARD)
		log_warn("port: frames of %u bytes are more than the port's MTU of %u", a->size, port_mtu(work->port[0]));
	return err;
}

static int run_ports(struct work *work, const struct arguments *a, int n_ports, char **names)
{
	char why[300] = "";
	sigset_t signals;
	int err = 0;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (int k = 0; k < n_ports && !err; k++)
		err = port_open("port", names[k], &work->port[k], why, sizeof(why));
	if (err) {
		log_error("port: %s", *why ? why : strerror(-err));
	} else {
		for (int k = 0; k < n_ports; k++)
			port_set_polling(work->port[k], work->polling);
		err = make_ready(work, a, &signals);
		if (!err) {
			log_info("port: up");
			err = run_queues(work, a, &signals);
		}
	}
	for (int k = 0; k < n_ports; k++)
		port_close(work->port[k]);
	return err == -EINTR ? 0 : err;
}

int cmd_port(int argc, char **argv)
{
	struct arguments a = { .mode = UINT32_MAX, .size = 64, .burst = 32, .wait = 60, .cpu = NO_CPU };
	struct option_def *options = table(&a);
	struct work work = { .mac = { 2, 0, 0, 0, 0, 2 } };
	char error[160];
	int n;

	options[12] = (struct option_def){ .name = "help", .kind = OPTION_FLAG, .value = &a.help, .help = "this text" };
	n = options_parse(options, argc, argv, error, sizeof(error));
	if (n < 0)
		return usage_error("port", error);
	if (a.help) {
		fputs(usage, stdout);
		options_help(stdout, options);
		return STATUS_OK;
	}
	if (n < 1 || n > 2)
		return usage_error("port", "one port, or two to forward between, please");
	work.mode = a.mode != UINT32_MAX ? (enum work_mode)a.mode : n == 2 ? WORK_FORWARD : WORK_SINK;
	if ((work.mode == WORK_FORWARD) != (n == 2))
		return usage_error("port", "two ports are for forwarding, one for everything else");
	if (a.offloads && work.mode != WORK_SINK && work.mode != WORK_REFLECT && work.mode != WORK_FORWARD)
		return usage_error("port", "--offloads is for sink, reflect and forward");
	work.polling = a.poll;
	work.offloads = a.offloads;
	work.check = a.check;
	work.bytes = a.size;
	work.burst = a.burst;
	work.rate = a.rate ? atof(a.rate) : 0;
	work.count = a.count ? strtoull(a.count, NULL, 10) : 0;
	work.cpu = a.cpu == NO_CPU ? -1 : (int)a.cpu;
	return run_ports(&work, &a, n, argv + 1) ? STATUS_FAILED : STATUS_OK;
}
