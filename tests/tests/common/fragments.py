"""Datagrams cut into fragments by hand and sent in a given order, and what comes back.

    answer PORT ORDER              a UDP server that answers with what it got, cut and ordered likewise
    ask ADDRESS PORT ORDER COUNT   UDP datagrams of 8,000 bytes, two at a time, their fragments alternating
    ping ADDRESS ORDER COUNT       echo requests of 4,000 bytes
    flood ADDRESS PORT COUNT SIZE  later fragments of so many bytes, of datagrams that have no first

Both families. ORDER: digits, each the number of a fragment, from 0; one that is missing is lost, one that is there twice is sent twice.
"""
import itertools, os, socket, struct, sys, time

CUT = 1360  # A multiple of 8; with its headers it fits an overlay over IPv6.
# No identification comes again within three seconds, from whichever process of this host (RFC 6864 section 4.1): later
# fragments that come first would be taken for those of the datagram that had it before.
identifications = itertools.count(time.monotonic_ns() // 50_000)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def fragments(source, destination, protocol, datagram, order):
    """The packets of one datagram; the kernel fills in length and checksum of an IPv4 header."""
    # Never 0: a raw socket gives every packet with 0 an identification of its own (raw_send_hdrinc).
    identification = next(identifications) % 0xFFFF + 1
    for number in order:
        start = int(number) * CUT
        piece = datagram[start : start + CUT]
        more = start + CUT < len(datagram)
        if len(source) == 4:
            offset = start // 8 | (0x2000 if more else 0)
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, identification, offset, 64, protocol, 0, source, destination)
        else:
            header = struct.pack("!IHBB16s16s", 6 << 28, 8 + len(piece), 44, 64, source, destination)
            header += struct.pack("!BBHI", protocol, 0, start | more, identification)
        yield header + piece


def pseudo_header(source, destination, protocol, length):
    return source + destination + struct.pack("!HBBH" if len(source) == 4 else "!HBBI", 0, 0, protocol, length)


def udp(source, destination, ports, payload):
    header = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    pseudo = pseudo_header(source, destination, 17, 8 + len(payload))
    return header[:6] + struct.pack("!H", checksum(pseudo + header + payload) or 0xFFFF) + payload


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def octets(address):
    return socket.inet_pton(family(address), address)


def own_address(address):
    with socket.socket(family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return octets(probe.getsockname()[0])


raw = {of: socket.socket(of, socket.SOCK_RAW, socket.IPPROTO_RAW) for of in (socket.AF_INET, socket.AF_INET6)}


def send(address, *datagrams):
    # All made before the first leaves: a fragment waits 67 ms for the others.
    for packet in [packet for packets in zip(*datagrams) for packet in packets]:
        raw[family(address)].sendto(packet, (address, 0))


def answer(port, order):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", int(port)))
    print("ready", flush=True)
    while True:
        payload, (address, client, *_) = server.recvfrom(65535)
        address = address.removeprefix("::ffff:")
        source, destination = own_address(address), octets(address)
        datagram = udp(source, destination, (int(port), client), payload)
        send(address, fragments(source, destination, 17, datagram, order))


def ask(address, port, order, count):
    source, destination = own_address(address), octets(address)
    client = socket.socket(family(address), socket.SOCK_DGRAM)
    client.bind(("", 0))
    client.settimeout(1)
    ports = (client.getsockname()[1], int(port))
    answered = 0
    for _ in range(int(count)):
        payloads = {os.urandom(8000), os.urandom(8000)}
        send(address, *(fragments(source, destination, 17, udp(source, destination, ports, it), order) for it in payloads))
        try:
            for _ in range(2):
                payload = client.recv(65535)
                assert payload in payloads, "another payload"
                payloads.remove(payload)
                answered += 1
        except TimeoutError:
            pass
    print(answered)


def ping(address, order, count):
    source, destination = own_address(address), octets(address)
    # An IPv4 socket gives the IP header as well.
    v4 = len(source) == 4
    protocol, request, reply, start = (1, 8, 0, 20) if v4 else (58, 128, 129, 0)
    socket_in = socket.socket(family(address), socket.SOCK_RAW, protocol)
    answered = 0
    for sequence in range(int(count)):
        payload = os.urandom(3992)
        pseudo = b"" if v4 else pseudo_header(source, destination, protocol, 4000)
        echo = lambda sum: struct.pack("!BBHHH", request, 0, sum, os.getpid() & 0xFFFF, sequence) + payload
        send(address, fragments(source, destination, protocol, echo(checksum(pseudo + echo(0))), order))
        deadline = time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            socket_in.settimeout(left)
            try:
                packet = socket_in.recv(65535)[start:]
            except TimeoutError:
                break
            if packet[0] == reply and packet[8:] == payload:
                answered += 1
                break
    print(answered)


def flood(address, port, count, size):
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    source, destination = own_address(address), octets(address)
    datagram = udp(source, destination, (1, int(port)), bytes(CUT - 8 + int(size)))
    for _ in range(int(count)):
        send(address, fragments(source, destination, 17, datagram, "1"))
    print(count)


# Nothing else on this machine delays a fragment for longer than the others wait.
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
{"answer": answer, "ask": ask, "ping": ping, "flood": flood}[sys.argv[1]](*sys.argv[2:])
