//! The field of 256 elements in which parity is calculated.

/// The polynomial x^8 + x^4 + x^3 + x^2 + 1, for whose field 2 generates all elements.
const POLYNOMIAL: u16 = 0x11d;

const LOGARITHMS: ([u8; 256], [u8; 512]) = logarithms();

/// Logarithms and powers of 2; the powers twice over, so that sums of logarithms need no reduction.
const fn logarithms() -> ([u8; 256], [u8; 512]) {
    let (mut log, mut power) = ([0; 256], [0; 512]);
    let (mut element, mut exponent) = (1_u16, 0);
    while exponent < 255 {
        log[element as usize] = exponent as u8;
        power[exponent] = element as u8;
        power[exponent + 255] = element as u8;
        element <<= 1;
        if element > 255 {
            element ^= POLYNOMIAL;
        }
        exponent += 1;
    }
    (log, power)
}

/// The product of two elements.
pub(super) const fn product(a: u8, b: u8) -> u8 {
    let (log, power) = &LOGARITHMS;
    if a == 0 || b == 0 {
        return 0;
    }
    power[log[a as usize] as usize + log[b as usize] as usize]
}

/// The inverse of an element; of 0, 0.
pub(super) const fn inverse(a: u8) -> u8 {
    let (log, power) = &LOGARITHMS;
    if a == 0 { 0 } else { power[255 - log[a as usize] as usize] }
}

/// What an element makes of each digit of four bits: `low[d]` is it times d, `high[d]` it times 16 d. Its
/// product with any element is the sum of two of these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multiples {
    pub(super) low: [u8; 16],
    pub(super) high: [u8; 16],
}

/// The multiples of each element: 8 KiB, which stay in the nearest cache.
pub(super) static MULTIPLES: [Multiples; 256] = multiples();

const fn multiples() -> [Multiples; 256] {
    let mut all = [Multiples { low: [0; 16], high: [0; 16] }; 256];
    let mut element = 0;
    while element < 256 {
        let mut digit = 0;
        while digit < 16 {
            all[element].low[digit] = product(element as u8, digit as u8);
            all[element].high[digit] = product(element as u8, (digit << 4) as u8);
            digit += 1;
        }
        element += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_a_field() {
        for a in 1..=255 {
            assert_eq!(product(a, inverse(a)), 1, "of {a}");
            assert_eq!((product(a, 1), product(a, 0)), (a, 0));
        }
        assert_eq!(product(0x80, 2), 0x1d);
    }

    #[test]
    fn the_multiples_of_both_digits_add_up_to_the_product() {
        for (a, multiples) in (0..=u8::MAX).zip(&MULTIPLES) {
            for b in 0..=u8::MAX {
                let sum = multiples.low[usize::from(b & 15)] ^ multiples.high[usize::from(b >> 4)];
                assert_eq!(sum, product(a, b), "{a} times {b}");
            }
        }
    }
}
