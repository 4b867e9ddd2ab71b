/* The ends of links: TAP devices in the namespaces of nodes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay.h"

#define DEVICE_QUEUE 4096 /* frames that a TAP holds until they are read */

static bool enter(long pid)
{
	char path[64];
	int fd, result;

	snprintf(path, sizeof(path), "/proc/%ld/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	result = setns(fd, CLONE_NEWNET);
	close(fd);
	return result == 0;
}

static bool configure_device(const struct end *end, const uint8_t mac[6], int mtu)
{
	struct ifreq request = {0};

	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(request.ifr_hwaddr.sa_data, mac, 6);
	if (ioctl(end->query, SIOCSIFHWADDR, &request))
		return false;
	request.ifr_mtu = mtu;
	if (ioctl(end->query, SIOCSIFMTU, &request))
		return false;
	request.ifr_qlen = DEVICE_QUEUE;
	if (ioctl(end->query, SIOCSIFTXQLEN, &request))
		return false;
	if (ioctl(end->query, SIOCGIFFLAGS, &request))
		return false;
	request.ifr_flags |= IFF_UP;
	return ioctl(end->query, SIOCSIFFLAGS, &request) == 0;
}

static bool make_device(struct end *end, const uint8_t mac[6], int mtu)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	end->tap.fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	end->query = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return end->tap.fd >= 0 && end->query >= 0 && !ioctl(end->tap.fd, TUNSETIFF, &request) &&
	       configure_device(end, mac, mtu) && watch(&end->tap);
}

/* Makes the device in the namespace of `pid`, and comes back. */
bool open_end(struct end *end, long pid, const char *device, const uint8_t mac[6], int mtu)
{
	int own_namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	bool made;

	end->tap = (struct source){.kind = END, .fd = -1};
	end->query = -1;
	end->tail = &end->head;
	snprintf(end->device, sizeof(end->device), "%s", device);
	if (own_namespace < 0)
		return false;
	made = enter(pid) && make_device(end, mac, mtu);
	if (setns(own_namespace, CLONE_NEWNET)) {
		perror("relay: cannot return to its network namespace");
		exit(1);
	}
	close(own_namespace);
	return made;
}

/* The kernel reports carrier changes late and at most once a second, unless somebody asks for the link (ETHTOOL_GLINK). */
bool set_carrier(struct end *end, bool up)
{
	struct ethtool_value value = {.cmd = ETHTOOL_GLINK};
	struct ifreq request = {.ifr_data = (char *)&value};
	int carrier = up;

	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	if (ioctl(end->tap.fd, TUNSETCARRIER, &carrier))
		return false;
	return ioctl(end->query, SIOCETHTOOL, &request) == 0;
}

void close_end(struct end *end)
{
	if (end->tap.fd >= 0)
		close(end->tap.fd);
	if (end->query >= 0)
		close(end->query);
}
