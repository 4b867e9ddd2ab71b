/*
 * What becomes of a path by what its probes say.
 *
 *   alive ── three in a row (of a link: twelve) have not come back in time, or the port has no carrier ──▶ dead
 *         ── one has not, and the far end has told that it finds the path dead ──────────────────────────▶
 *   dead  ── all have come back for as long as it was put on hold, and the port has a carrier ──▶ alive
 *
 * In time: within what the ones before took and their deviation (RFC 6298). One that comes later shows that the path is
 * alive, and slower than it was: what is late does not count as missed any more, and what follows has more time. A path
 * that keeps failing is put on hold ever longer.
 */
#include "prober.h"

#define MISSED_MAX    3
#define MISSED_LINK   12 /* a link: its paths are left before, and to find others costs more */
#define TIMEOUT_FIRST (200 * MS)
#define TIMEOUT_LEAST (4 * MS) /* beyond what the probes before took */
#define LOST_NS       SECOND   /* beyond what the probes before took */
#define HOLD_NS       SECOND
#define HOLDS_MAX     6 /* 64 s */
#define DOUBT_NS      (50 * MS)
#define NEWER_NS      (15 * MS)
#define NOTICES       3 /* of which some may be lost */

static void die(struct prober *prober, struct target *target, uint64_t now_ns)
{
	if (target->is_dead)
		return;
	if (now_ns - target->alive_since_ns > 10 * (HOLD_NS << target->holds))
		target->holds = 0; /* it has been well for long */
	else if (target->holds < HOLDS_MAX)
		target->holds++;
	target->to_tell = target->far_slot == NO_SLOT ? 0 : NOTICES;
	prober->bits_differ = 1;
	__atomic_store_n(&target->is_dead, 1, __ATOMIC_RELEASE);
}

static void take_sample(struct prober *prober, struct target *target, const struct sent *sent, uint64_t received_ns,
			uint64_t now_ns)
{
	uint64_t rtt_ns = received_ns > sent->sent_ns ? received_ns - sent->sent_ns : 0;
	uint64_t off = rtt_ns > target->rtt_ns ? rtt_ns - target->rtt_ns : target->rtt_ns - rtt_ns;

	if (!target->samples) {
		target->rtt_ns = rtt_ns;
		target->deviation_ns = rtt_ns / 2;
	} else {
		target->deviation_ns += off / 4 - target->deviation_ns / 4;
		target->rtt_ns += rtt_ns / 8 - target->rtt_ns / 8;
	}
	target->rtt_us[target->samples % SAMPLES] = rtt_ns / 1000;
	__atomic_store_n(&target->samples, target->samples + 1, __ATOMIC_RELEASE);
	target->missed = 0;
	if (!target->good_since_ns)
		target->good_since_ns = now_ns;
	if (target->heard_ns < received_ns)
		target->heard_ns = received_ns;
	prober->bits_differ |= target->is_dead;
}

/* What has come back after its time, and what is so late that it counts as lost, whether or not it comes one day. */
static void take_late(struct prober *prober, struct target *target, uint64_t now_ns)
{
	for (uint32_t age = REMEMBERED; target->overdue && age; age--) {
		struct sent *sent = remembered(prober, target, target->judged - age);
		uint64_t received_ns = __atomic_load_n(&sent->received_ns, __ATOMIC_ACQUIRE);

		if ((sent->is_sent != OVERDUE && sent->is_sent != LOST) || sent->sequence != target->judged - age)
			continue;
		if (received_ns) {
			take_sample(prober, target, sent, received_ns, now_ns);
			sent->is_sent = COUNTED;
			target->overdue--;
		} else if (sent->is_sent == OVERDUE && now_ns - sent->sent_ns > LOST_NS + target->rtt_ns) {
			sent->is_sent = LOST;
			target->lost++;
		}
	}
}

static uint64_t timeout_ns(const struct target *target, uint64_t now_ns)
{
	uint64_t timeout = 4 * target->deviation_ns, pace = pace_ns(target, now_ns), least = pace / 4;

	if (!target->samples)
		return TIMEOUT_FIRST;
	if (timeout > pace) /* however unsteady the path was, a few that are missed are enough */
		timeout = pace;
	if (timeout < least)
		timeout = least;
	if (timeout < TIMEOUT_LEAST)
		timeout = TIMEOUT_LEAST;
	return timeout + target->rtt_ns;
}

/* When the eldest that is waited for is missed; none is: never. */
uint64_t deadline_ns(const struct prober *prober, const struct target *target, uint64_t now_ns)
{
	if (target->judged == target->sequence)
		return UINT64_MAX;
	return remembered(prober, target, target->judged)->sent_ns + timeout_ns(target, now_ns) + 1;
}

void judge(struct prober *prober, struct target *target, uint64_t now_ns)
{
	uint64_t timeout = timeout_ns(target, now_ns);
	uint32_t missed_max = target->slot == NO_SLOT ? MISSED_LINK : MISSED_MAX;

	if (target->doubted_ns && now_ns - target->doubted_ns < DOUBT_NS)
		missed_max = 1;
	take_late(prober, target, now_ns);
	while (target->judged != target->sequence) {
		struct sent *sent = remembered(prober, target, target->judged);
		uint64_t received_ns = __atomic_load_n(&sent->received_ns, __ATOMIC_ACQUIRE);

		if (received_ns) {
			take_sample(prober, target, sent, received_ns, now_ns);
		} else if (now_ns - sent->sent_ns > timeout || target->sequence - target->judged == REMEMBERED) {
			sent->is_sent = OVERDUE;
			target->overdue++;
			target->missed++;
			target->good_since_ns = 0;
		} else {
			break;
		}
		target->judged++;
	}
	if (target->no_carrier)
		target->good_since_ns = 0;
	/* Who has hardly run has learnt nothing about any single link. */
	if (target->slot == NO_SLOT && now_ns - prober->late_ns < MISSED_LINK * target->interval_ns)
		target->missed = 0;
	if (target->no_carrier || target->missed >= missed_max) {
		die(prober, target, now_ns);
	} else if (target->is_dead && target->good_since_ns &&
		   now_ns - target->good_since_ns >= HOLD_NS << target->holds) {
		target->alive_since_ns = now_ns;
		target->to_tell = 0;
		prober->bits_differ = 1;
		__atomic_store_n(&target->is_dead, 0, __ATOMIC_RELEASE);
	}
}

/*
 * The bits of each group, whose targets stand together by slot. Where none is alive the one is taken that was heard of
 * last, and not another for each probe that comes back.
 */
void write_bits(struct prober *prober)
{
	for (uint32_t first = 0, next; first < prober->count; first = next) {
		uint32_t group = prober->targets[first].group, dead = 0, all = 0;
		uint32_t *bits = &prober->paths[group].dead;
		const struct target *best = NULL;

		for (next = first; next < prober->count && prober->targets[next].group == group; next++) {
			const struct target *target = &prober->targets[next];

			if (target->slot == NO_SLOT)
				continue;
			all |= 1u << target->slot;
			if (target->is_dead)
				dead |= 1u << target->slot;
			if (!target->no_carrier && (!best || target->heard_ns > best->heard_ns + NEWER_NS))
				best = target;
		}
		if (dead == all && best)
			dead &= ~(1u << best->slot);
		if (all && *bits != dead)
			__atomic_store_n(bits, dead, __ATOMIC_RELAXED);
	}
	prober->bits_differ = 0;
}
