/* So many packets of a port in one window of time, and no more: what a host may ask of others. */
#pragma once

struct port_rate {
	__u32 window;
	__u32 packets;
};

static __always_inline bool is_within_rate(struct port_rate *rate, __u32 window, __u32 limit)
{
	if (!rate)
		return false;
	if (rate->window != window) {
		rate->window = window;
		rate->packets = 0;
	}
	return __sync_fetch_and_add(&rate->packets, 1) < limit;
}
