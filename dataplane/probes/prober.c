/*
 * Sends a node's probes and judges what comes back. One thread; it is handed everything by prober.py, and computes and
 * remembers an HMAC for each probe, so that XDP (ebpf/probe.h) only compares. Another thread asks for carriers.
 *
 *   when something is due, or the kernel tells of a carrier
 *     ──▶ judge ──▶ the bits of dead candidate paths in `path_dead`, where XDP looks before it encapsulates
 *     │         └─▶ a notice to the far end of one that has just died, over another that is alive
 *     └─▶ the next probe
 *
 * A notice proves nothing and is not believed: who gets one is content with one probe that does not come back.
 *
 * XDP notes which SR Policies it has sent by. Paths that carried nothing for USED_NS are probed each IDLE_NS at most,
 * and where that is true of all of them both threads sleep longer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "prober.h"

#define LATE_NS     (100 * MS) /* a sender that wakes up so much too late */
#define CARRIER_NS  (10 * MS)
#define SLEEP_LEAST (4 * MS) /* so that probes of many paths go together */
#define IDLE_SLEEP  IDLE_NS  /* as SLEEP_LEAST; how late the first packet of a path is noticed */
#define IDLE_LOOKS  3        /* so many of these for each look at carriers, of which the kernel tells too */
#define DOUBT_AGAIN SECOND

VISIBLE uint32_t target_bytes(void)
{
	return sizeof(struct target);
}

VISIBLE uint32_t prober_bytes(void)
{
	return sizeof(struct prober);
}

/* xorshift64*: jitter is no secret */
static uint64_t random_below(struct prober *prober, uint64_t bound)
{
	prober->random ^= prober->random >> 12;
	prober->random ^= prober->random << 25;
	prober->random ^= prober->random >> 27;
	return bound ? (prober->random * 0x2545f4914f6cdd1dull >> 16) % bound : 0;
}

/* What XDP has sent by since the last look. A path that is used now is probed at once. */
static void look_at_traffic(struct prober *prober, uint64_t now_ns)
{
	bool is_idle = true;

	for (uint32_t first = 0, next; first < prober->count; first = next) {
		struct target *targets = prober->targets;
		struct path *path = &prober->paths[targets[first].group];
		bool is_used = __atomic_load_n(&path->is_used, __ATOMIC_RELAXED);

		if (is_used)
			__atomic_store_n(&path->is_used, 0, __ATOMIC_RELAXED);
		for (next = first; next < prober->count && targets[next].group == targets[first].group; next++) {
			if (targets[next].slot == NO_SLOT)
				continue;
			if (is_used && now_ns - targets[next].used_ns >= USED_NS)
				targets[next].next_ns = prober->look_ns[next] = now_ns;
			if (is_used)
				targets[next].used_ns = now_ns;
			is_idle &= now_ns - targets[next].used_ns >= USED_NS;
		}
	}
	__atomic_store_n(&prober->is_idle, is_idle, __ATOMIC_RELAXED);
}

/* Of which paths their far ends have told. Each is doubted now and then at most, whoever says so how often. */
static void take_doubts(struct prober *prober, uint64_t now_ns)
{
	for (uint32_t i = 0; i < prober->count; i++) {
		struct path *path = &prober->paths[prober->groups[i]];
		uint32_t doubted = __atomic_load_n(&path->doubted, __ATOMIC_RELAXED);
		struct target *target = &prober->targets[i];

		if (!doubted)
			continue;
		if (target->slot != NO_SLOT && doubted >> target->slot & 1 &&
		    now_ns - target->doubted_ns > DOUBT_AGAIN) {
			target->doubted_ns = now_ns;
			prober->look_ns[i] = now_ns;
		}
		if (i + 1 == prober->count || prober->groups[i + 1] != prober->groups[i])
			__atomic_store_n(&path->doubted, 0, __ATOMIC_RELAXED);
	}
}

/* Over the best that is alive. */
static void tell(struct prober *prober, const struct target *dead, uint32_t at)
{
	struct target *targets = prober->targets;
	uint32_t first = at, end = at;

	while (first && targets[first - 1].group == dead->group)
		first--;
	while (end < prober->count && targets[end].group == dead->group)
		end++;
	for (uint32_t i = first; i < end; i++)
		if (!targets[i].is_dead && !targets[i].no_carrier && targets[i].ifindex && targets[i].notice.length) {
			send_notice(prober, &targets[i], dead);
			return;
		}
}

/* All that is due of one target; when the next is. */
static uint64_t look(struct prober *prober, uint32_t at, uint64_t now_ns, uint64_t real_ns)
{
	struct target *target = &prober->targets[at];
	uint64_t deadline;

	judge(prober, target, now_ns);
	if (target->next_ns <= now_ns) {
		uint64_t pace = pace_ns(target, now_ns);

		/* jitter of 25 %, RFC 5880 §6.8.7 */
		target->next_ns = now_ns + pace - random_below(prober, pace / 4);
		if (target->ifindex)
			queue_probe(prober, target, now_ns, real_ns);
	}
	if (target->to_tell)
		return now_ns;
	deadline = deadline_ns(prober, target, now_ns);
	return deadline < target->next_ns ? deadline : target->next_ns;
}

/* Or until one of these can be read; whether that is so. */
static bool sleep_until(uint64_t until_ns, struct pollfd *said, nfds_t count)
{
	uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	struct timespec left = {left_ns / SECOND, left_ns % SECOND};

	return ppoll(said, count, &left, NULL) > 0;
}

/* Until then, until the kernel or the other thread tells of a carrier, or until `stop` is set. */
static void wait_until(struct prober *prober, uint64_t until_ns)
{
	struct pollfd said[] = {{.fd = prober->links, .events = POLLIN},
				{.fd = prober->changed, .events = POLLIN},
				{.fd = prober->stopped, .events = POLLIN}};
	bool changed = false;
	eventfd_t count;

	if (!sleep_until(until_ns, said, 3))
		return;
	if (said[0].revents)
		changed |= hear_of_links(prober);
	if (said[1].revents)
		changed |= eventfd_read(prober->changed, &count) == 0;
	prober->bits_differ |= changed;
	for (uint32_t i = 0; changed && i < prober->count; i++)
		prober->look_ns[i] = 0;
}

/* Else a busy machine would be taken for a dead path. Where it is not allowed this thread is as all are. */
static void come_first(const char *name)
{
	struct sched_param first = {.sched_priority = 1};

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	prctl(PR_SET_NAME, name);
}

/* Until `stop` is set. */
VISIBLE void prober_watch(struct prober *prober)
{
	come_first("carriers");
	while (!__atomic_load_n(&prober->stop, __ATOMIC_ACQUIRE)) {
		bool is_idle = __atomic_load_n(&prober->is_idle, __ATOMIC_RELAXED);
		struct pollfd stopped = {.fd = prober->stopped, .events = POLLIN};

		look_at_carriers(prober);
		sleep_until(clock_ns(CLOCK_MONOTONIC) + (is_idle ? IDLE_LOOKS * IDLE_NS : CARRIER_NS), &stopped, 1);
	}
}

/* Until `stop` is set. */
VISIBLE void prober_run(struct prober *prober)
{
	uint64_t at_ns = clock_ns(CLOCK_MONOTONIC), traffic_ns = 0;

	come_first("probes");
	begin_frames(prober);
	prober->bits_differ = 1;
	while (!__atomic_load_n(&prober->stop, __ATOMIC_ACQUIRE)) {
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), real_ns = clock_ns(CLOCK_REALTIME);
		uint64_t least_ns, due_ns = UINT64_MAX;

		if (now_ns > at_ns + LATE_NS)
			prober->late_ns = now_ns;
		if (prober->is_idle || now_ns >= traffic_ns) {
			look_at_traffic(prober, now_ns);
			traffic_ns = now_ns + IDLE_SLEEP;
		}
		take_doubts(prober, now_ns);
		for (uint32_t i = 0; i < prober->count; i++) {
			if (prober->look_ns[i] <= now_ns)
				prober->look_ns[i] = look(prober, i, now_ns, real_ns);
			if (prober->look_ns[i] < due_ns)
				due_ns = prober->look_ns[i];
		}
		if (prober->bits_differ)
			write_bits(prober);
		flush_frames(prober);
		for (uint32_t i = 0; due_ns <= now_ns && i < prober->count; i++)
			if (prober->targets[i].to_tell) {
				tell(prober, &prober->targets[i], i);
				prober->targets[i].to_tell--;
			}
		least_ns = now_ns + (prober->is_idle ? IDLE_SLEEP - random_below(prober, IDLE_SLEEP / 4) : SLEEP_LEAST);
		at_ns = due_ns < least_ns ? least_ns : due_ns;
		if (at_ns > traffic_ns)
			at_ns = traffic_ns;
		wait_until(prober, at_ns);
	}
}
