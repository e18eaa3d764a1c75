//! Prints how fast parity of a block is made and lost symbols are restored, in bytes of the block for each
//! second of one processor.
//!
//! `cargo run --release -p pressrun-protocol --example codec-speed`

use pressrun_protocol::session::codec::{Encoder, Restoration, Unsolvable, restore};
use pressrun_protocol::session::{BLOCK_SYMBOLS, Geometry, SYMBOL_BYTES};

#[derive(Debug)]
struct Failed;

impl From<Unsolvable> for Failed {
    fn from(_: Unsolvable) -> Self {
        Self
    }
}

const ROUNDS: u32 = 400;

/// Time that this process has had on a processor, whatever else the machine does.
fn processor_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells");
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn main() {
    let bytes = u64::from(SYMBOL_BYTES) * u64::from(BLOCK_SYMBOLS);
    let geometry = Geometry::new(bytes, SYMBOL_BYTES).expect("a block").with_blocks();
    let mut object: Vec<u8> = (0..bytes).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    let speed = |since: u64| bytes as f64 * f64::from(ROUNDS) / (processor_nanos() - since).max(1) as f64 * 1e3;
    println!("| lost of {BLOCK_SYMBOLS} | parity made, MB/s | restored, MB/s |");
    println!("|---|---|---|");
    for lost in [1_u8, 2, 4, 10, 20, 40] {
        let read = |object: &[u8], offset: u64, symbol: &mut [u8]| {
            symbol.copy_from_slice(&object[offset as usize..offset as usize + symbol.len()]);
        };
        let since = processor_nanos();
        let mut encoder = Encoder::default();
        for _ in 0..ROUNDS {
            encoder = Encoder::default();
            let made = encoder.parity(&geometry, (0, 0, lost), |offset, symbol| {
                read(&object, offset, symbol);
                Ok::<(), Failed>(())
            });
            assert!(made.is_ok_and(|parity| !parity.is_empty()));
        }
        let made = speed(since);
        let unread = |_, _: &mut [u8]| Err(Failed);
        let parity: Vec<Vec<u8>> = (0..lost)
            .map(|index| encoder.parity(&geometry, (0, index, 1), unread).expect("made before").to_vec())
            .collect();
        let missing = (0..u32::from(lost)).map(|symbol| symbol * 4).collect();
        let restoration = Restoration { block: 0, missing, parity: (0..lost).collect() };
        let mut restored = Vec::new();
        let since = processor_nanos();
        for _ in 0..ROUNDS {
            restored.clear();
            let result = restore(
                &geometry,
                &restoration,
                |offset, symbol| {
                    read(&object, offset, symbol);
                    Ok(())
                },
                |index, symbol| {
                    symbol.copy_from_slice(&parity[usize::from(index)]);
                    Ok(())
                },
                |offset, symbol| {
                    restored.push((offset, symbol.to_vec()));
                    Ok::<(), Failed>(())
                },
            );
            assert!(result.is_ok());
        }
        let mended = speed(since);
        for (offset, symbol) in &restored {
            assert!(object[*offset as usize..][..symbol.len()] == symbol[..], "restored as it was");
        }
        println!("| {lost} | {made:.0} | {mended:.0} |");
        object.rotate_left(1);
    }
}
