//! The inputs of a graph: what it must take, and how a batch of rows is laid out for it.

use std::borrow::Cow;

use ort::session::SessionInputs;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::session::RunError;
use crate::bundle::{Bundle, BundleError};
use crate::input::{Preprocessor, Row};
use crate::text::{Side, Tokenizer};

const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const TOKEN_TYPE_IDS: &str = "token_type_ids";

/// The inputs of one graph, with the rows of a batch side by side, kept so that a batch costs no allocation.
#[derive(Debug)]
pub(super) enum Inputs {
    Image {
        /// Axes of one row.
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

/// What was laid out.
pub(super) struct Staged {
    pub(super) rows: usize,
    /// Length of each row.
    length: usize,
    pub(super) bytes: usize,
}

impl Inputs {
    /// Checks that the graph takes the rows that the bundle's preprocessor makes.
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

    /// Lays out a batch.
    pub(super) fn stage<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> Result<Staged, RunError> {
        match self {
            Self::Image { row_shape, numbers } => {
                let length = row_shape.iter().product();
                numbers.clear();
                let mut count = 0;
                for row in rows {
                    let Row::Image(row) = row else {
                        return Err(RunError::InvalidInput("a text, for an image classifier".into()));
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
                    Row::Image(_) => Err(RunError::InvalidInput("a picture, for a text classifier".into())),
                });
                let rows: Vec<&[i64]> = rows.collect::<Result<_, _>>()?;
                let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
                let length = tokenizer.bucket(longest);
                ids.clear();
                mask.clear();
                for row in &rows {
                    if row.is_empty() {
                        return Err(RunError::InvalidInput("a text without tokens".into()));
                    }
                    let padding = length.checked_sub(row.len()).ok_or(RunError::RowLength {
                        expected: length,
                        found: row.len(),
                    })?;
                    let padding_tokens = std::iter::repeat_n(tokenizer.padding().id, padding);
                    let (ones, zeros) = (std::iter::repeat_n(1, row.len()), std::iter::repeat_n(0, padding));
                    match tokenizer.padding().side {
                        Side::Right => {
                            ids.extend_from_slice(row);
                            ids.extend(padding_tokens);
                            mask.extend(ones.chain(zeros));
                        }
                        Side::Left => {
                            ids.extend(padding_tokens);
                            ids.extend_from_slice(row);
                            mask.extend(zeros.chain(ones));
                        }
                    }
                }
                types.resize(ids.len(), 0);
                staged(rows.len(), length, size_of_val(ids.as_slice()))
            }
        }
    }

    /// Fills a batch of pictures up to so many rows, with copies of the last: whatever they give is thrown away, and a copy cannot
    /// give what no input would. Texts stay as they are.
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

    /// What was laid out, as the graph takes it.
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

    /// Gives the memory of an unusually large batch back.
    pub(super) fn release(&mut self) {
        match self {
            Self::Image { numbers, .. } => *numbers = Vec::new(),
            Self::Text { ids, mask, types, .. } => {
                (*ids, *mask, *types) = (Vec::new(), Vec::new(), Vec::new());
            }
        }
    }
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

/// One input of 32-bit floats, a batch axis of any size, and the row that the preprocessor makes.
fn check_image(bundle: &Bundle, inputs: &[Outlet], row_shape: [usize; 3]) -> Result<(), BundleError> {
    let [input] = inputs else {
        let found = format!("{}: {}", inputs.len(), names(inputs));
        let expected = "one input, for an image classifier";
        return Err(BundleError::new(bundle.model(), None, expected, found));
    };
    let [a, b, c] = row_shape;
    let expected = format!("float32 [batch, {a}, {b}, {c}], as preprocessor_config.json and the layout say");
    let row_shape = row_shape.map(|axis| axis as i64);
    check_tensor(bundle, input, TensorElementType::Float32, &row_shape, expected)
}

/// `input_ids`, and what else of the inputs of a Hugging Face encoder the graph asks for.
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
    // Where the graph's length is fixed, every text must be padded to it.
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

/// A batch axis of any size, and rows of this shape; an axis of any size of the graph takes every size.
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
