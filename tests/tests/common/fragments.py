"""Datagrams cut into fragments by hand and sent in a given order, and what comes back.

    answer PORT ORDER              a UDP server that answers with what it got, cut and ordered likewise
    ask ADDRESS PORT ORDER COUNT   UDP datagrams of 8,000 bytes, two at a time, their fragments alternating
    ping ADDRESS ORDER COUNT       echo requests of 4,000 bytes
    flood ADDRESS PORT COUNT       later fragments of datagrams that have no first

ORDER: digits, each the number of a fragment, from 0; one that is missing is lost, one that is there twice is sent twice.
"""
import itertools, os, socket, struct, sys, time

CUT = 1400  # A multiple of 8.
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
    """The packets of one datagram; the kernel fills in length and checksum of the header."""
    identification = next(identifications) & 0xFFFF
    for number in order:
        start = int(number) * CUT
        piece = datagram[start : start + CUT]
        offset = start // 8 | (0x2000 if start + CUT < len(datagram) else 0)
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, identification, offset, 64, protocol, 0, source, destination)
        yield header + piece


def udp(source, destination, ports, payload):
    header = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    pseudo = source + destination + struct.pack("!BBH", 0, 17, 8 + len(payload))
    return header[:6] + struct.pack("!H", checksum(pseudo + header + payload) or 0xFFFF) + payload


def own_address(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return socket.inet_aton(probe.getsockname()[0])


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def send(address, *datagrams):
    for packets in zip(*datagrams):
        for packet in packets:
            raw.sendto(packet, (address, 0))


def answer(port, order):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", int(port)))
    print("ready", flush=True)
    while True:
        payload, (address, client) = server.recvfrom(65535)
        source, destination = own_address(address), socket.inet_aton(address)
        datagram = udp(source, destination, (int(port), client), payload)
        send(address, fragments(source, destination, 17, datagram, order))


def ask(address, port, order, count):
    source, destination = own_address(address), socket.inet_aton(socket.gethostbyname(address))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("0.0.0.0", 0))
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
    source, destination = own_address(address), socket.inet_aton(address)
    socket_in = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    answered = 0
    for sequence in range(int(count)):
        payload = os.urandom(3992)
        header = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, sequence)
        header = struct.pack("!BBHHH", 8, 0, checksum(header + payload), os.getpid() & 0xFFFF, sequence)
        send(address, fragments(source, destination, 1, header + payload, order))
        deadline = time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            socket_in.settimeout(left)
            try:
                packet = socket_in.recv(65535)
            except TimeoutError:
                break
            if packet[20] == 0 and packet[28:] == payload:
                answered += 1
                break
    print(answered)


def flood(address, port, count):
    source, destination = own_address(address), socket.inet_aton(address)
    datagram = udp(source, destination, (1, int(port)), bytes(2 * CUT))
    for _ in range(int(count)):
        send(address, fragments(source, destination, 17, datagram, "1"))
    print(count)


{"answer": answer, "ask": ask, "ping": ping, "flood": flood}[sys.argv[1]](*sys.argv[2:])
