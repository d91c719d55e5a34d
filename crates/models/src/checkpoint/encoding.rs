//! The encodings of numbers in files, each with its exact widening to float32.
//!
//! Block formats are those of ggml (`ggml-common.h`, `ggml-quants.c`): a row is cut into blocks of 32 or 256
//! numbers, each block holds small integers and the scales that make numbers of them. What a block means is
//! defined in float32 arithmetic, so widening loses nothing.

use half::{bf16, f16};

use super::header::Dtype;

/// Appends the numbers of whole blocks to a vector.
type Widen = fn(&[u8], &mut Vec<f32>);

/// One way to write numbers.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// Its name in the format it comes from.
    pub name: &'static str,
    /// Numbers in one block; 1 for plain element types.
    pub elements: usize,
    /// Bytes of one block.
    pub bytes: usize,
    widen: Widen,
}

impl Encoding {
    /// The encoding of a safetensors element type; none for integers and for types that no weights come in.
    pub fn of_dtype(dtype: Dtype) -> Option<Self> {
        let widen: Widen = match dtype {
            Dtype::F32 => |bytes, out| out.extend(blocks(bytes).map(|block| f32::from_le_bytes(*block))),
            Dtype::F16 => |bytes, out| out.extend(blocks(bytes).map(|block| f16::from_le_bytes(*block).to_f32())),
            Dtype::Bf16 => |bytes, out| out.extend(blocks(bytes).map(|block| bf16::from_le_bytes(*block).to_f32())),
            Dtype::F8E4M3 => |bytes, out| out.extend(bytes.iter().map(|byte| widen_e4m3(*byte))),
            _ => return None,
        };
        Some(Self { name: dtype.name(), elements: 1, bytes: dtype.bytes() as usize, widen })
    }

    /// The encoding of a ggml type by its number in GGUF files.
    ///
    /// # Errors
    /// The type's name, or its number, when it is not one that is widened here.
    pub fn of_ggml(number: u32) -> Result<Self, String> {
        let block = |name, elements, bytes, widen| Ok(Self { name, elements, bytes, widen });
        match number {
            0 => Ok(Self::of_dtype(Dtype::F32).expect("F32 is widened")),
            1 => Ok(Self::of_dtype(Dtype::F16).expect("F16 is widened")),
            30 => Ok(Self::of_dtype(Dtype::Bf16).expect("BF16 is widened")),
            2 => block("Q4_0", 32, 18, |bytes, out| blocks(bytes).for_each(|block| widen_q4_0(block, out))),
            3 => block("Q4_1", 32, 20, |bytes, out| blocks(bytes).for_each(|block| widen_q4_1(block, out))),
            6 => block("Q5_0", 32, 22, |bytes, out| blocks(bytes).for_each(|block| widen_q5_0(block, out))),
            7 => block("Q5_1", 32, 24, |bytes, out| blocks(bytes).for_each(|block| widen_q5_1(block, out))),
            8 => block("Q8_0", 32, 34, |bytes, out| blocks(bytes).for_each(|block| widen_q8_0(block, out))),
            10 => block("Q2_K", 256, 84, |bytes, out| blocks(bytes).for_each(|block| widen_q2_k(block, out))),
            11 => block("Q3_K", 256, 110, |bytes, out| blocks(bytes).for_each(|block| widen_q3_k(block, out))),
            12 => block("Q4_K", 256, 144, |bytes, out| blocks(bytes).for_each(|block| widen_q4_k(block, out))),
            13 => block("Q5_K", 256, 176, |bytes, out| blocks(bytes).for_each(|block| widen_q5_k(block, out))),
            14 => block("Q6_K", 256, 210, |bytes, out| blocks(bytes).for_each(|block| widen_q6_k(block, out))),
            other => Err(ggml_name(other)),
        }
    }

    /// True when each number stands for itself, so that a file in it is no quantised one.
    pub fn is_plain(&self) -> bool {
        matches!(self.name, "F32" | "F16" | "BF16")
    }

    /// Bytes of so many numbers; none when they fill no whole blocks or the count does not fit.
    pub fn bytes_of(&self, elements: u64) -> Option<u64> {
        let block = self.elements as u64;
        if elements.is_multiple_of(block) { (elements / block).checked_mul(self.bytes as u64) } else { None }
    }

    /// Appends the numbers of whole blocks.
    pub(super) fn widen(&self, bytes: &[u8], out: &mut Vec<f32>) {
        (self.widen)(bytes, out);
    }
}

/// Names of the ggml types that are refused, by number.
fn ggml_name(number: u32) -> String {
    let known = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return format!("ggml type {number}"),
    };
    known.to_owned()
}

fn blocks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = &[u8; N]> {
    bytes.as_chunks::<N>().0.iter()
}

/// The float16 at this byte of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// One byte of sign, four exponent bits (bias 7) and three of mantissa; no infinities, NaN where all are set.
pub(super) fn widen_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match exponent {
        15 if byte & 7 == 7 => f32::NAN,
        0 => mantissa * f32::from_bits((127 - 9) << 23),
        _ => (8.0 + mantissa) * f32::from_bits((127 - 10 + exponent) << 23),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Low nibbles of 16 bytes are the first 16 numbers of a block, high nibbles the other 16.
fn nibble(bytes: &[u8], element: usize) -> u8 {
    if element < 16 { bytes[element] & 15 } else { bytes[element - 16] >> 4 }
}

/// `d · (q - 8)`: scale, 16 bytes of nibbles.
fn widen_q4_0(block: &[u8; 18], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend((0..32).map(|i| d * (f32::from(nibble(&block[2..], i)) - 8.0)));
}

/// `d · q + m`: scale, offset, 16 bytes of nibbles.
fn widen_q4_1(block: &[u8; 20], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend((0..32).map(|i| d * f32::from(nibble(&block[4..], i)) + m));
}

/// The fifth bit of each number stands in 32 bits of their own.
fn five_bits(high: &[u8], low: &[u8], element: usize) -> f32 {
    f32::from(nibble(low, element) | (high[element / 8] >> (element % 8) & 1) << 4)
}

/// `d · (q - 16)`: scale, fifth bits, 16 bytes of nibbles.
fn widen_q5_0(block: &[u8; 22], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend((0..32).map(|i| d * (five_bits(&block[2..6], &block[6..], i) - 16.0)));
}

/// `d · q + m`: scale, offset, fifth bits, 16 bytes of nibbles.
fn widen_q5_1(block: &[u8; 24], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend((0..32).map(|i| d * five_bits(&block[4..8], &block[8..], i) + m));
}

/// `d · q`: scale, 32 signed bytes.
fn widen_q8_0(block: &[u8; 34], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(block[2..].iter().map(|q| d * f32::from(q.cast_signed())));
}

/// Two bits of each of 256 numbers: each half of 128 lies in 32 bytes, its quarters at rising bit positions.
fn two_bits(bytes: &[u8], element: usize) -> u8 {
    bytes[element / 128 * 32 + element % 32] >> (element % 128 / 32 * 2) & 3
}

/// `(d · scale) q - dmin · min`, one scale and one minimum for 16 numbers: 16 bytes of both, two-bit numbers,
/// d, dmin.
fn widen_q2_k(block: &[u8; 84], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    out.extend((0..256).map(|i| {
        let scale = block[i / 16];
        d * f32::from(scale & 15) * f32::from(two_bits(&block[16..80], i)) - dmin * f32::from(scale >> 4)
    }));
}

/// `d · (scale - 32) · q`, one scale for 16 numbers: third bits (32 bytes), two-bit numbers, 16 six-bit
/// scales, d. A third bit that is *not* set takes 4 off.
fn widen_q3_k(block: &[u8; 110], out: &mut Vec<f32>) {
    let d = half_at(block, 108);
    let scales = &block[96..108];
    let scale = |group: usize| {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        f32::from(low | high << 4) - 32.0
    };
    out.extend((0..256).map(|i| {
        let third = block[i % 32] >> (i / 32) & 1;
        d * scale(i / 16) * (f32::from(two_bits(&block[32..96], i)) - if third == 1 { 0.0 } else { 4.0 })
    }));
}

/// The six-bit scale and minimum of a group of 32: eight of each in 12 bytes, the last four with their upper
/// bits apart.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4),
    };
    (f32::from(scale), f32::from(minimum))
}

/// Four bits of each of 256 numbers: each quarter of 64 lies in 32 bytes, low nibbles first.
fn four_bits(bytes: &[u8], element: usize) -> u8 {
    bytes[element / 64 * 32 + element % 32] >> (element % 64 / 32 * 4) & 15
}

/// `(d · scale) q - dmin · min`, one scale and one minimum for 32 numbers: d, dmin, scales, four-bit numbers.
fn widen_q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    out.extend((0..256).map(|i| {
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        d * scale * f32::from(four_bits(&block[16..], i)) - dmin * minimum
    }));
}

/// As Q4_K with a fifth bit: d, dmin, scales, fifth bits (32 bytes), four-bit numbers.
fn widen_q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    out.extend((0..256).map(|i| {
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        let fifth = block[16 + i % 32] >> (i / 32) & 1;
        d * scale * f32::from(four_bits(&block[48..], i) | fifth << 4) - dmin * minimum
    }));
}

/// `(d · scale)(q - 32)`, one signed scale for 16 numbers: lower four bits, upper two bits, scales, d.
fn widen_q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let d = half_at(block, 208);
    out.extend((0..256).map(|i| {
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let high = two_bits(&block[128..192], i);
        d * f32::from(block[192 + i / 16].cast_signed()) * (f32::from(low | high << 4) - 32.0)
    }));
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use candle_core::quantized::ggml_file::qtensor_from_ggml;
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    fn widen(number: u32, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        Encoding::of_ggml(number).unwrap().widen(bytes, &mut out);
        out
    }

    /// A block that begins with these float16 numbers.
    fn block(halves: &[f32], rest: impl IntoIterator<Item = u8>) -> Vec<u8> {
        halves.iter().flat_map(|half| f16::from_f32(*half).to_le_bytes()).chain(rest).collect()
    }

    #[test]
    fn nibbles_are_the_first_half_low_and_the_second_half_high() {
        let numbers = widen(2, &block(&[0.5], (0..16).map(|i| i | (15 - i) << 4)));
        assert_eq!(numbers[..3], [-4.0, -3.5, -3.0]);
        assert_eq!(numbers[15..18], [3.5, 3.5, 3.0]);
        let numbers = widen(3, &block(&[2.0, -1.0], (0..16).map(|i| i | (15 - i) << 4)));
        assert_eq!((numbers[0], numbers[15], numbers[16], numbers[31]), (-1.0, 29.0, 29.0, -1.0));
    }

    #[test]
    fn signed_bytes_are_multiplied_by_their_scale() {
        let numbers = widen(8, &block(&[0.25], (0..32).map(|i: u8| i.wrapping_sub(16).wrapping_mul(8))));
        assert_eq!((numbers[0], numbers[16], numbers[31]), (-32.0, 0.0, 30.0));
    }

    #[test]
    fn every_byte_of_e4m3_is_what_another_implementation_says() {
        for byte in 0..=255u8 {
            let other = Tensor::from_raw_buffer(&[byte], DType::F8E4M3, &[1], &Device::Cpu).unwrap();
            let other = other.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()[0];
            let own = widen_e4m3(byte);
            assert!(own.to_bits() == other.to_bits() || own.is_nan() && other.is_nan(), "{byte:#x}: {own} {other}");
        }
    }

    #[test]
    fn a_type_that_is_not_widened_is_told_by_name() {
        assert_eq!(Encoding::of_ggml(23).unwrap_err(), "IQ4_XS");
        assert_eq!(Encoding::of_ggml(4000).unwrap_err(), "ggml type 4000");
    }

    proptest! {
        #[test]
        fn every_block_is_what_another_implementation_says(bytes in proptest::collection::vec(any::<u8>(), 1024)) {
            let kinds = [
                (2, GgmlDType::Q4_0), (3, GgmlDType::Q4_1), (6, GgmlDType::Q5_0), (7, GgmlDType::Q5_1),
                (8, GgmlDType::Q8_0), (10, GgmlDType::Q2K), (11, GgmlDType::Q3K), (12, GgmlDType::Q4K),
                (13, GgmlDType::Q5K), (14, GgmlDType::Q6K),
            ];
            for (number, dtype) in kinds {
                let encoding = Encoding::of_ggml(number).unwrap();
                let count = 256 / encoding.elements;
                let bytes = &bytes[..count * encoding.bytes];
                let other = qtensor_from_ggml(dtype, bytes, vec![256], &Device::Cpu).unwrap();
                let other = other.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
                for (own, other) in widen(number, bytes).iter().zip(&other) {
                    // Scales of random bytes may be NaN or infinite; zeros may differ in sign.
                    prop_assert!(own == other || own.is_nan() && other.is_nan(), "{}: {own} {other}", encoding.name);
                }
            }
        }
    }
}
