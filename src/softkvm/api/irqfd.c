/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_IRQFD. One thread, "guise-irqfd", waits for all of a VM's irqfds and drives their GSIs.
 *
 * Without a resample eventfd a signal is one interrupt. With one, the signal raises the line and leaves it up; when
 * the guest acknowledges the interrupt the line falls and the resample eventfd is signalled, so the owner can look
 * whether its device still wants service. Several such irqfds on one GSI share the line.
 *
 * irqfds.lock protects the list, and is held while signals are served: once deassigning has returned, no further
 * interrupt comes from that eventfd. Order: vm->lock, irqfds.lock, irqchip.lock. Resamplers are also looked at under
 * irqchip.lock alone (from EOI), so they enter and leave that list under it.
 */
#include "softkvm/api/irqfd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "softkvm/api/eventfd.h"
#include "softkvm/irqchip/chip.h"

enum { BATCH = 16 };

struct irqfd {
	struct irqfd *next;
	struct vm *vm;
	uint64_t key; /* for epoll: a number used once */
	uint32_t gsi;
	int fd;
	int resample_fd; /* -1: none */
	struct ack_notifier notifier;
};

struct irqfds {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_t thread;
	int epoll_fd, stop_fd;
	struct irqfd *list;
	uint64_t next_key;
};

/* --- the thread --- */

/* Take the eventfd's count. False if it has none, as somebody else may read it too. */
static bool consume(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t count;

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN && read(fd, &count, sizeof(count)) == sizeof(count);
}

static void serve(struct irqfds *all, uint64_t key)
{
	struct irqfd *f = all->list;

	while (f && f->key != key)
		f = f->next;
	if (!f || !consume(f->fd))
		return;
	if (f->resample_fd < 0) {
		line_pulse(f->vm, f->gsi);
		return;
	}
	pthread_mutex_lock(&f->vm->irqchip->lock);
	line_set_locked(f->vm, IRQ_SOURCE_IRQFD, f->gsi, 1);
	pthread_mutex_unlock(&f->vm->irqchip->lock);
}

static void *irqfd_thread(void *arg)
{
	struct irqfds *all = arg;
	struct epoll_event events[BATCH];

	pthread_setname_np(pthread_self(), "guise-irqfd");
	for (;;) {
		int n = epoll_wait(all->epoll_fd, events, BATCH, -1);

		pthread_mutex_lock(&all->lock);
		for (int i = 0; i < n; i++) {
			if (!events[i].data.u64) {
				pthread_mutex_unlock(&all->lock);
				return NULL;
			}
			serve(all, events[i].data.u64);
		}
		pthread_mutex_unlock(&all->lock);
	}
}

/* The guest acknowledged the GSI: irqchip.lock is held. */
static void resample(struct vm *vm, struct ack_notifier *notifier)
{
	struct irqfd *f = (struct irqfd *)((char *)notifier - offsetof(struct irqfd, notifier));

	line_set_locked(vm, IRQ_SOURCE_IRQFD, f->gsi, 0);
	eventfd_write(f->resample_fd, 1);
}

/* --- life --- */

static int watch(struct irqfds *all, int fd, uint64_t key)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = key};

	return epoll_ctl(all->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int irqfds_new(struct vm *vm)
{
	struct irqfds *all = calloc(1, sizeof(*all));
	int err;

	if (!all)
		return -ENOMEM;
	all->vm = vm;
	all->next_key = 1;
	all->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	all->stop_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&all->lock, NULL);
	err = all->epoll_fd < 0 || all->stop_fd < 0 ? -errno : watch(all, all->stop_fd, 0);
	if (!err)
		err = thread_start(&all->thread, "guise", "irqfd", irqfd_thread, all);
	if (!err) {
		vm->irqfds = all;
		return 0;
	}
	if (all->epoll_fd >= 0)
		close(all->epoll_fd);
	if (all->stop_fd >= 0)
		close(all->stop_fd);
	pthread_mutex_destroy(&all->lock);
	free(all);
	return err;
}

static void release(struct irqfds *all, struct irqfd *f)
{
	epoll_ctl(all->epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
	if (f->resample_fd >= 0) {
		ack_notifier_del(f->vm, &f->notifier);
		close(f->resample_fd);
	}
	close(f->fd);
	free(f);
}

void irqfd_free(struct vm *vm)
{
	struct irqfds *all = vm->irqfds;
	struct irqfd *next;

	if (!all)
		return;
	eventfd_write(all->stop_fd, 1);
	pthread_join(all->thread, NULL);
	for (struct irqfd *f = all->list; f; f = next) {
		next = f->next;
		release(all, f);
	}
	close(all->epoll_fd);
	close(all->stop_fd);
	pthread_mutex_destroy(&all->lock);
	free(all);
	vm->irqfds = NULL;
}

/* --- the ioctl --- */

static bool is_in_use(const struct irqfds *all, int fd)
{
	for (const struct irqfd *f = all->list; f; f = f->next)
		if (eventfd_is_same(f->fd, fd))
			return true;
	return false;
}

/* Both descriptors become f's own. */
static int hold_both(struct irqfd *f, const struct kvm_irqfd *args)
{
	f->fd = eventfd_hold((int)args->fd);
	if (f->fd < 0)
		return f->fd;
	f->resample_fd = -1;
	if (!(args->flags & KVM_IRQFD_FLAG_RESAMPLE))
		return 0;
	f->resample_fd = eventfd_hold((int)args->resamplefd);
	if (f->resample_fd >= 0)
		return 0;
	close(f->fd);
	return f->resample_fd;
}

static int assign(struct irqfds *all, const struct kvm_irqfd *args)
{
	struct irqfd *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	f->vm = all->vm;
	f->gsi = args->gsi;
	f->key = all->next_key++;
	err = hold_both(f, args);
	if (err) {
		free(f);
		return err;
	}
	pthread_mutex_lock(&all->lock);
	err = is_in_use(all, f->fd) ? -EBUSY : watch(all, f->fd, f->key);
	if (!err) {
		f->next = all->list;
		all->list = f;
	}
	pthread_mutex_unlock(&all->lock);
	if (err) {
		if (f->resample_fd >= 0)
			close(f->resample_fd);
		close(f->fd);
		free(f);
		return err;
	}
	if (f->resample_fd >= 0) {
		f->notifier = (struct ack_notifier){.gsi = f->gsi, .acked = resample};
		ack_notifier_add(f->vm, &f->notifier);
	}
	return 0;
}

/* As the kernel: no error if there was none such. */
static int deassign(struct irqfds *all, const struct kvm_irqfd *args)
{
	int fd = eventfd_hold((int)args->fd);

	if (fd < 0)
		return fd;
	pthread_mutex_lock(&all->lock);
	for (struct irqfd **p = &all->list; *p;) {
		struct irqfd *f = *p;

		if (f->gsi != args->gsi || !eventfd_is_same(f->fd, fd)) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		release(all, f);
	}
	pthread_mutex_unlock(&all->lock);
	close(fd);
	return 0;
}

int irqfd_change(struct vm *vm, const struct kvm_irqfd *args)
{
	int err;

	if (args->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (!vm->irqchip)
		return -EINVAL;
	if (args->gsi >= ROUTING_MAX_GSI)
		return -EINVAL;
	if (args->flags & KVM_IRQFD_FLAG_RESAMPLE && vm->split_irqchip)
		return -EINVAL; /* nobody here would know of the EOI */
	err = vm->irqfds ? 0 : irqfds_new(vm);
	if (err)
		return err;
	return args->flags & KVM_IRQFD_FLAG_DEASSIGN ? deassign(vm->irqfds, args) : assign(vm->irqfds, args);
}
