/*
 * Which ports have a carrier. The kernel tells of one that is lost, mostly at once, but of each interface at most once a
 * second; so each is asked too, by a thread of its own: the kernel may be busy with some other interface for a while before
 * it answers.
 */
#define _GNU_SOURCE
#include <linux/ethtool.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "prober.h"

#define LOWER_UP 0x10000 /* IFF_LOWER_UP of linux/if.h, which net/if.h excludes */

static bool set_carrier(struct target *target, bool is_there)
{
	if (__atomic_load_n(&target->no_carrier, __ATOMIC_RELAXED) == !is_there)
		return false;
	__atomic_store_n(&target->no_carrier, !is_there, __ATOMIC_RELAXED);
	return true;
}

/* Asks each port that probes are sent at. */
void look_at_carriers(struct prober *prober)
{
	struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
	uint8_t known[PORTS] = {};
	bool changed = false;

	for (uint32_t i = 0; i < prober->count; i++) {
		struct target *target = &prober->targets[i];
		uint32_t port = target->port % PORTS;
		struct ifreq request = {.ifr_data = (char *)&link};

		if (!target->ifindex)
			continue;
		if (!known[port]) {
			memcpy(request.ifr_name, prober->interfaces[port], IFNAMSIZ);
			known[port] = ioctl(prober->control, SIOCETHTOOL, &request) || link.data ? 1 : 2;
		}
		changed |= set_carrier(target, known[port] == 1);
	}
	if (changed)
		eventfd_write(prober->changed, 1);
}

static bool take_message(struct prober *prober, const struct nlmsghdr *message)
{
	const struct ifinfomsg *link = NLMSG_DATA(message);
	bool changed = false;

	if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof(*link)))
		return false;
	for (uint32_t i = 0; i < prober->count; i++)
		if (prober->targets[i].ifindex == (uint32_t)link->ifi_index)
			changed |= set_carrier(&prober->targets[i], link->ifi_flags & LOWER_UP);
	return changed;
}

/* Whether a carrier has come or gone, of all that the kernel has told since. */
bool hear_of_links(struct prober *prober)
{
	_Alignas(struct nlmsghdr) char buffer[16384];
	bool changed = false;
	ssize_t got;

	while ((got = recv(prober->links, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
		struct nlmsghdr *message = (struct nlmsghdr *)buffer;

		for (unsigned int left = got; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left))
			changed |= take_message(prober, message);
	}
	return changed;
}
