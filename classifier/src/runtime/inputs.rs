//! The inputs of a graph: checks their types and shapes, and lays out batches for them.

use std::borrow::Cow;
use std::iter::repeat_n;

use ort::session::SessionInputs;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use crate::bundle::Bundle;
use crate::error::{BundleError, RunError};
use crate::input::{Preprocessor, Row};
use crate::text::{Padding, Side, Tokenizer};

const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const TOKEN_TYPE_IDS: &str = "token_type_ids";

/// The inputs of one graph, with buffers for a batch. The buffers are reused, so that a batch costs
/// no allocation.
#[derive(Debug)]
pub(super) enum Inputs {
    Image {
        row_shape: [usize; 3],
        numbers: Vec<f32>,
    },
    Text {
        tokenizer: Tokenizer,
        takes_mask: bool,
        takes_types: bool,
        ids: Vec<i64>,
        /// 1 for a token, 0 for padding.
        mask: Vec<i64>,
        /// All zero: a text is one sequence.
        types: Vec<i64>,
    },
}

/// The size of a batch in the buffers.
pub(super) struct Staged {
    pub(super) rows: usize,
    /// Number of values in each row.
    length: usize,
    pub(super) bytes: usize,
}

impl Inputs {
    /// Checks that the inputs take the rows of the bundle's preprocessor.
    pub(super) fn new(bundle: &Bundle, inputs: &[Outlet]) -> Result<Self, BundleError> {
        match &bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                let row_shape = preprocessor.shape();
                check_image(bundle, inputs, row_shape)?;
                Ok(Self::Image {
                    row_shape,
                    numbers: Vec::new(),
                })
            }
            Preprocessor::Text(tokenizer) => {
                check_text(bundle, inputs, tokenizer)?;
                let takes = |name| inputs.iter().any(|input| input.name() == name);
                Ok(Self::Text {
                    tokenizer: tokenizer.clone(),
                    takes_mask: takes(ATTENTION_MASK),
                    takes_types: takes(TOKEN_TYPE_IDS),
                    ids: Vec::new(),
                    mask: Vec::new(),
                    types: Vec::new(),
                })
            }
        }
    }

    /// Copies a batch into the buffers.
    pub(super) fn stage<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> Result<Staged, RunError> {
        match self {
            Self::Image { row_shape, numbers } => {
                let length = row_shape.iter().product();
                numbers.clear();
                let mut count = 0;
                for row in rows {
                    let Row::Image(row) = row else {
                        return Err(RunError::InvalidInput("a text for an image classifier".into()));
                    };
                    check_length(length, row.len())?;
                    numbers.extend_from_slice(row);
                    count += 1;
                }
                staged(count, length, size_of_val(numbers.as_slice()))
            }
            Self::Text {
                tokenizer,
                ids,
                mask,
                types,
                ..
            } => {
                let rows = rows.map(|row| match row {
                    Row::Text(row) => Ok(row.as_slice()),
                    Row::Image(_) => Err(RunError::InvalidInput("an image for a text classifier".into())),
                });
                let rows: Vec<&[i64]> = rows.collect::<Result<_, _>>()?;
                let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
                let length = tokenizer.bucket(longest);
                ids.clear();
                mask.clear();
                for row in &rows {
                    push_padded(row, length, tokenizer.padding(), ids, mask)?;
                }
                types.resize(ids.len(), 0);
                staged(rows.len(), length, size_of_val(ids.as_slice()))
            }
        }
    }

    /// Fills a batch of images up to `rows` rows. Their outputs are ignored. Copies of the last row
    /// are used because they cannot cause values that no input causes.
    pub(super) fn pad(&mut self, staged: &mut Staged, rows: usize) {
        if let Self::Image { row_shape, numbers } = self {
            let length: usize = row_shape.iter().product();
            let last = numbers.len().saturating_sub(length);
            for _ in staged.rows..rows {
                numbers.extend_from_within(last..last + length);
            }
            staged.rows = staged.rows.max(rows);
        }
    }

    /// The batch in the buffers, as tensors.
    pub(super) fn tensors(&self, staged: &Staged) -> Result<SessionInputs<'_, '_, 1>, ort::Error> {
        let Staged { rows, length, .. } = *staged;
        match self {
            Self::Image { row_shape, numbers } => {
                let [a, b, c] = *row_shape;
                let tensor = TensorRef::from_array_view(([rows, a, b, c], numbers.as_slice()))?;
                Ok(SessionInputs::ValueArray([tensor.into()]))
            }
            Self::Text {
                takes_mask,
                takes_types,
                ids,
                mask,
                types,
                ..
            } => {
                let given = [
                    (INPUT_IDS, true, ids),
                    (ATTENTION_MASK, *takes_mask, mask),
                    (TOKEN_TYPE_IDS, *takes_types, types),
                ];
                let taken = given.into_iter().filter(|(_, taken, _)| *taken);
                let named = taken.map(|(name, _, values)| {
                    let tensor = TensorRef::from_array_view(([rows, length], values.as_slice()))?;
                    Ok((Cow::Borrowed(name), tensor.into()))
                });
                named
                    .collect::<Result<_, ort::Error>>()
                    .map(SessionInputs::ValueMap)
            }
        }
    }

    /// Frees the buffers, after an unusually large batch.
    pub(super) fn release(&mut self) {
        match self {
            Self::Image { numbers, .. } => *numbers = Vec::new(),
            Self::Text { ids, mask, types, .. } => {
                (*ids, *mask, *types) = (Vec::new(), Vec::new(), Vec::new());
            }
        }
    }
}

/// Appends the ids and the mask of one text, padded to `length`.
fn push_padded(
    row: &[i64],
    length: usize,
    padding: Padding,
    ids: &mut Vec<i64>,
    mask: &mut Vec<i64>,
) -> Result<(), RunError> {
    if row.is_empty() {
        return Err(RunError::InvalidInput("a text without tokens".into()));
    }
    let missing = length.checked_sub(row.len()).ok_or(RunError::RowLength {
        expected: length,
        found: row.len(),
    })?;
    let padding_ids = repeat_n(padding.id, missing);
    let (ones, zeros) = (repeat_n(1, row.len()), repeat_n(0, missing));
    match padding.side {
        Side::Right => {
            ids.extend_from_slice(row);
            ids.extend(padding_ids);
            mask.extend(ones.chain(zeros));
        }
        Side::Left => {
            ids.extend(padding_ids);
            ids.extend_from_slice(row);
            mask.extend(zeros.chain(ones));
        }
    }
    Ok(())
}

fn staged(rows: usize, length: usize, bytes: usize) -> Result<Staged, RunError> {
    if rows == 0 {
        return Err(RunError::Empty);
    }
    Ok(Staged { rows, length, bytes })
}

fn check_length(expected: usize, found: usize) -> Result<(), RunError> {
    if found == expected {
        Ok(())
    } else {
        Err(RunError::RowLength { expected, found })
    }
}

/// An image classifier takes one tensor of 32-bit floats: rows of the preprocessor.
fn check_image(bundle: &Bundle, inputs: &[Outlet], row_shape: [usize; 3]) -> Result<(), BundleError> {
    let [input] = inputs else {
        let found = format!("{}: {}", inputs.len(), names(inputs));
        let expected = "one input for an image classifier";
        return Err(BundleError::new(bundle.model(), None, expected, found));
    };
    let [a, b, c] = row_shape;
    let expected = format!("float32 [batch, {a}, {b}, {c}], as preprocessor_config.json and the layout say");
    let row_shape = row_shape.map(|axis| axis as i64);
    check_tensor(bundle, input, TensorElementType::Float32, &row_shape, expected)
}

/// A text classifier takes the inputs of a Hugging Face encoder. Only `input_ids` is required.
fn check_text(bundle: &Bundle, inputs: &[Outlet], tokenizer: &Tokenizer) -> Result<(), BundleError> {
    let known = [INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS];
    let has_ids = inputs.iter().any(|input| input.name() == INPUT_IDS);
    if !has_ids || inputs.iter().any(|input| !known.contains(&input.name())) {
        return Err(BundleError::new(
            bundle.model(),
            None,
            format!(
                "the input {INPUT_IDS}, and at most {ATTENTION_MASK} and {TOKEN_TYPE_IDS}, for a text classifier"
            ),
            names(inputs),
        ));
    }
    // If the sequence axis has a fixed length, every text must be padded to it.
    let row_shape = match tokenizer.buckets() {
        [only] => [*only as i64],
        _ => [-1],
    };
    inputs.iter().try_for_each(|input| {
        let expected =
            "int64 [batch, sequence], both of any size, or a sequence that is the only bucket".to_owned();
        check_tensor(bundle, input, TensorElementType::Int64, &row_shape, expected)
    })
}

/// Checks the element type and the shape: a dynamic batch axis, then `row_shape`. Dynamic axes take
/// every length.
fn check_tensor(
    bundle: &Bundle,
    input: &Outlet,
    element: TensorElementType,
    row_shape: &[i64],
    expected: String,
) -> Result<(), BundleError> {
    let fits = match input.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            *ty == element
                && shape.len() == row_shape.len() + 1
                && shape[0] == -1
                && shape[1..]
                    .iter()
                    .zip(row_shape)
                    .all(|(&found, &expected)| found == -1 || found == expected)
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let key = format!("input {}", input.name());
    Err(BundleError::new(bundle.model(), key, expected, input.dtype()))
}

fn names(inputs: &[Outlet]) -> String {
    inputs.iter().map(Outlet::name).collect::<Vec<_>>().join(", ")
}
