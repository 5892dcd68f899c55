//! Checks a shared library's file before the system's loader maps it.
//!
//! The loader also maps a file that is shorter than its headers say. The process then ends with
//! SIGBUS at the first access behind the end of the file. Half-copied libraries are common enough
//! to deserve a message.

use std::fs::File;
use std::path::Path;

use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, Machine, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadCache};

/// The machine that this program is built for: its number in an ELF header and its name.
const MACHINE: Option<(Machine, &str)> = if cfg!(target_arch = "x86_64") {
    Some((EM_X86_64, "x86_64"))
} else if cfg!(target_arch = "aarch64") {
    Some((EM_AARCH64, "aarch64"))
} else {
    None
};

/// Checks that `path` is a shared library for this machine and has the length that its headers
/// imply.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length == 0 {
        return Err("expected a shared library, found an empty file".into());
    }
    let data = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&data)
        .map_err(|error| format!("expected a 64-bit ELF shared library: {error}"))?;
    let cut = |expected: u64| {
        format!(
            "expected at least {expected} bytes according to the headers, found {length} bytes: the file is incomplete"
        )
    };
    let endian = header
        .endian()
        .map_err(|error| format!("expected a 64-bit ELF shared library: {error}"))?;
    let machine = header.e_machine.get(endian);
    if let Some((expected, name)) = MACHINE
        && machine != expected
    {
        let found = match machine {
            EM_X86_64 => "x86_64".to_owned(),
            EM_AARCH64 => "aarch64".to_owned(),
            Machine(other) => format!("ELF machine {other}"),
        };
        return Err(format!("expected a library for {name}, found one for {found}"));
    }
    let table_end =
        |offset: u64, entries: u16, size: u16| offset.saturating_add(u64::from(entries) * u64::from(size));
    let tables = table_end(
        header.e_phoff.get(endian),
        header.e_phnum.get(endian),
        header.e_phentsize.get(endian),
    )
    .max(table_end(
        header.e_shoff.get(endian),
        header.e_shnum.get(endian),
        header.e_shentsize.get(endian),
    ));
    if tables > length {
        return Err(cut(tables));
    }
    let segments = header
        .program_headers(endian, &data)
        .map_err(|error| format!("expected a 64-bit ELF shared library: {error}"))?;
    let end = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
        .map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)))
        .max()
        .unwrap_or(0);
    if end > length {
        return Err(cut(end));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The running test is an ELF file for this machine.
    fn own_file() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("library.so");
        std::fs::write(&path, bytes).unwrap();
        check(&path)
    }

    #[test]
    fn a_complete_file_passes() {
        assert_eq!(checked(&own_file()), Ok(()));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_rejected() {
        let whole = own_file();
        for length in [0, 3, 40, 64, 500, whole.len() / 2, whole.len() - 1] {
            let error = checked(&whole[..length]).unwrap_err();
            assert!(error.starts_with("expected "), "{length}: {error}");
        }
        let error = checked(&whole[..whole.len() / 2]).unwrap_err();
        assert!(error.ends_with("the file is incomplete"), "{error}");
    }

    #[test]
    fn a_file_for_another_machine_is_rejected_with_its_name() {
        let mut other = own_file();
        // e_machine of an ELF header.
        other[18..20].copy_from_slice(&243_u16.to_le_bytes());
        let error = checked(&other).unwrap_err();
        assert!(error.ends_with("found one for ELF machine 243"), "{error}");
    }
}
