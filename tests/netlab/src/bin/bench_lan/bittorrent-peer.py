"""A peer of a BitTorrent swarm, for the comparison: libtorrent, and every peer known from the beginning.

    bittorrent-peer.py make FILE TORRENT      describes a file
    bittorrent-peer.py join TORRENT DIRECTORY ADDRESS

Who joins says `ready`, reads the addresses of the peers to connect to, one line, and says `finished` when it has
verified the whole file. It serves until it is killed.
"""
import json
import sys
import time

import libtorrent

PORT = 6881
PIECE_BYTES = 256 * 1024


def say(**event):
    print(json.dumps(event), flush=True)


def make(file, torrent):
    files = libtorrent.file_storage()
    libtorrent.add_files(files, file)
    made = libtorrent.create_torrent(files, piece_size=PIECE_BYTES)
    libtorrent.set_piece_hashes(made, file.rsplit("/", 1)[0])
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))


def join(torrent, directory, address):
    session = libtorrent.session({
        "listen_interfaces": f"{address}:{PORT}",
        # Nobody is searched for, and nothing is held back.
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "unchoke_slots_limit": -1, "connection_speed": 500, "torrent_connect_boost": 100,
        "alert_mask": libtorrent.alert.category_t.status_notification | libtorrent.alert.category_t.error_notification,
    })
    joined = session.add_torrent({
        "ti": libtorrent.torrent_info(torrent), "save_path": directory,
        "flags": libtorrent.torrent_flags.update_subscribe,
    })
    began, told = None, False
    while True:
        for alert in session.pop_alerts():
            if isinstance(alert, libtorrent.torrent_checked_alert) and not told:
                told = True
                say(event="ready")
                peers = sys.stdin.readline().split()
                began = time.monotonic()
                for peer in peers:
                    joined.connect_peer((peer, PORT))
            elif isinstance(alert, libtorrent.torrent_finished_alert) and began is not None:
                say(event="finished", micros=(time.monotonic() - began) * 1e6)
            elif isinstance(alert, libtorrent.torrent_error_alert):
                sys.exit(alert.message())
        session.wait_for_alert(1000)


if __name__ == "__main__":
    {"make": make, "join": join}[sys.argv[1]](*sys.argv[2:])
