/*
 * relay SOCKET: the links between the nodes of one lab.
 *
 * A link is a pair of TAP devices, one in the network namespace of each node; this process reads what one end sends
 * and writes it to the other when it is due. netem cannot do that here: XDP redirect bypasses the qdiscs of the egress
 * device, and not every kernel has netem.
 *
 *     node a          relay: loss, rate, delay             node b
 *    XDP ─▶ TAP ─read─▶ [frame, due_ns] [..] ... ─write─▶ TAP ─▶ XDP
 *
 * SOCKET (unix, stream) takes one command a connection and answers one line of JSON ({"ok": false, "error": "..."} when
 * it cannot):
 *
 *     add LINK PID DEVICE MAC PID DEVICE MAC MTU    TAP devices in the namespaces of these processes, up
 *     set LINK DELAY_US RATE_KBIT LOSS_PPM          each direction; 0: none, unlimited, none
 *     down LINK | up LINK                           carrier of both ends; what is under way is lost
 *     stats                                         state and counts of every link
 *     capture LINK COUNT SECONDS FILE               what crosses it, both directions, as pcap with nanoseconds
 *
 * It ends with SIGTERM, and with it its devices.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "relay.h"

struct link *links[LINKS];
unsigned link_count;
static int poller;
static volatile sig_atomic_t stopping;

static void stop(int signal)
{
	(void)signal;
	stopping = 1;
}

uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

bool watch(struct source *source)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	return epoll_ctl(poller, EPOLL_CTL_ADD, source->fd, &event) == 0;
}

void unwatch(struct source *source)
{
	epoll_ctl(poller, EPOLL_CTL_DEL, source->fd, NULL);
}

struct link *find_link(const char *name)
{
	for (unsigned i = 0; i < link_count; i++)
		if (strcmp(links[i]->name, name) == 0)
			return links[i];
	return NULL;
}

/* Delivers what is due; returns when the next is (CLOCK_MONOTONIC), UINT64_MAX: nothing waits. */
static uint64_t service(void)
{
	uint64_t now_ns = nanoseconds(CLOCK_MONOTONIC), next_ns = UINT64_MAX;

	for (unsigned i = 0; i < link_count; i++)
		for (int k = 0; k < 2; k++) {
			struct end *end = &links[i]->ends[k];

			if (!end->head)
				continue;
			deliver_due(end, now_ns);
			if (end->head && end->head->due_ns < next_ns)
				next_ns = end->head->due_ns;
		}
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];

		if (client->source.fd < 0 || !client->captured)
			continue;
		if (client->until_ns <= now_ns)
			end_capture(client);
		else if (client->until_ns < next_ns)
			next_ns = client->until_ns;
	}
	return next_ns;
}

static void dispatch(struct source *source)
{
	switch (source->kind) {
	case END:
		read_end((struct end *)source);
		break;
	case LISTENER:
		accept_client(source->fd);
		break;
	case CLIENT:
		if (source->fd >= 0)
			read_client((struct client *)source);
		break;
	}
}

static void run(void)
{
	struct epoll_event events[64];

	while (!stopping) {
		uint64_t next_ns = service(), now_ns = nanoseconds(CLOCK_MONOTONIC);
		uint64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
		struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000ull),
					.tv_nsec = (long)(wait_ns % 1000000000ull)};
		int ready = epoll_pwait2(poller, events, 64, next_ns == UINT64_MAX ? NULL : &wait, NULL);

		for (int i = 0; i < ready; i++) {
			dispatch(events[i].data.ptr);
			if (i + 1 < ready)
				service();
		}
	}
}

int main(int argc, char **argv)
{
	struct source listener = {.kind = LISTENER};
	struct sched_param first = {.sched_priority = 1};

	if (argc != 2) {
		fprintf(stderr, "usage: relay SOCKET\n");
		return 2;
	}
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_TIMERSLACK, 1ul);
	/* Late frames are false delay, and many at once are lost with a link that is cut; without the right to it they are. */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		setpriority(PRIO_PROCESS, 0, -10);
	for (int i = 0; i < CLIENTS; i++)
		clients[i].source.fd = -1;
	poller = epoll_create1(EPOLL_CLOEXEC);
	listener.fd = listen_at(argv[1]);
	if (poller < 0 || listener.fd < 0 || !watch(&listener)) {
		fprintf(stderr, "relay: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	run();
	unlink(argv[1]);
	return 0;
}
