//! The losses of the student, and their gradients with respect to its logits and hidden states.

use antigen_models::taps::softmax;

/// The student's loss on top of cross-entropy: `T^2 * KL(softmax(teacher / T) || softmax(student / T))`, in
/// nats, and its gradient with respect to the student's logits, `T * (softmax(student / T) - softmax(teacher
/// / T))`.
pub fn distillation(teacher: &[f32], student: &[f32], temperature: f32) -> (f32, Vec<f32>) {
    let soft = |logits: &[f32]| softmax(logits.iter().map(|z| z / temperature).collect());
    let (p, q) = (soft(teacher), soft(student));
    let divergence: f32 = p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum();
    let gradient = p.iter().zip(&q).map(|(p, q)| temperature * (q - p)).collect();
    (temperature * temperature * divergence, gradient)
}

/// `L_FA` as it is meant: each sentence's own teacher feature against the student's hidden state of the row
/// that speaks for it; squared distances summed over the width and averaged over sentences. Returns the loss
/// and its gradient for each of those rows.
///
/// # Shapes
/// Both `[sentences][d]`.
pub fn align_features(teacher: &[Vec<f32>], student: &[Vec<f32>]) -> (f32, Vec<Vec<f32>>) {
    align(student.iter().zip(teacher), student.len(), 0.0)
}

/// `L_FA` as released: the teacher's features are indexed with -1, which is the *last sentence of the batch*
/// and not the last layer, and that one feature is compared with the student's hidden state of every token of
/// every sentence; 1e-6 is added to each difference. Returns the loss and its gradient for each row. Packed
/// passes have no padding rows, which the released code also pulls.
///
/// # Shapes
/// `[sentences][d]` and `[t][d]`.
pub fn align_features_as_released(teacher: &[Vec<f32>], hidden: &[Vec<f32>]) -> (f32, Vec<Vec<f32>>) {
    let Some(last) = teacher.last() else { return (0.0, Vec::new()) };
    align(hidden.iter().map(|row| (row, last)), hidden.len(), 1e-6)
}

/// Mean over pairs of the squared distance, `shift` being added to each difference.
fn align<'a>(
    pairs: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f32>)>,
    count: usize,
    shift: f32,
) -> (f32, Vec<Vec<f32>>) {
    let share = 1.0 / count.max(1) as f32;
    let mut loss = 0.0;
    let gradients = pairs.map(|(student, teacher)| {
        let differences = student.iter().zip(teacher).map(|(s, t)| s - t + shift);
        let of_one = |d: f32| {
            loss += share * d * d;
            2.0 * share * d
        };
        differences.map(of_one).collect::<Vec<f32>>()
    });
    let gradients = gradients.collect();
    (loss, gradients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_paired_sentence_by_sentence() {
        let (loss, gradient) = align_features(&[vec![1.0, 0.0], vec![0.0, 2.0]], &[vec![1.0, 1.0], vec![3.0, 2.0]]);
        // (0 + 1 + 9 + 0) / 2, and differences themselves, because 2 / 2 is 1.
        assert_eq!((loss, gradient), (5.0, vec![vec![0.0, 1.0], vec![3.0, 0.0]]));
    }

    #[test]
    fn the_released_alignment_pulls_every_token_to_the_last_sentence() {
        let teacher = [vec![100.0, 100.0], vec![1.0, 0.0]];
        let (loss, gradient) =
            align_features_as_released(&teacher, &[vec![1.0, 0.0], vec![3.0, 0.0], vec![1.0, 1.0], vec![1.0, 0.0]]);
        assert!((loss - (4.0 + 1.0) / 4.0).abs() < 1e-4, "{loss}");
        assert!((gradient[1][0] - 1.0).abs() < 1e-4 && gradient[0][0].abs() < 1e-5, "{gradient:?}");
    }

    #[test]
    fn distillation_is_nothing_between_equals_and_its_gradient_is_the_slope() {
        assert!(distillation(&[1.0, -1.0], &[1.0, -1.0], 2.0).0.abs() < 1e-6);
        let (teacher, student) = ([0.5f32, -0.3], [-0.2f32, 0.7]);
        let (_, gradient) = distillation(&teacher, &student, 2.0);
        for i in 0..2 {
            let at = |step: f32| {
                let mut moved = student;
                moved[i] += step;
                distillation(&teacher, &moved, 2.0).0
            };
            assert!(((at(1e-2) - at(-1e-2)) / 2e-2 - gradient[i]).abs() < 1e-3, "{i}");
        }
        // T = 1, teacher (1/2, 1/2), student (1/4, 3/4): ln 2 - ln(3/2) / 2 ... = 0.5 ln 2 + 0.5 ln(2/3).
        let (loss, _) = distillation(&[0.0, 0.0], &[0.0, 3f32.ln()], 1.0);
        assert!((loss - 0.5 * (4f32 / 3.0).ln()).abs() < 1e-5, "{loss}");
    }
}
