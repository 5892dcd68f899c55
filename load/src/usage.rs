//! CPU time of a process, as Linux counts it.

use std::time::Duration;

/// Ticks of `/proc/PID/stat` per second: fixed in the kernel's interface to programs.
const TICKS: u64 = 100;

/// User and system time that this process has used; none where there is no `/proc`.
pub fn own_cpu() -> Option<Duration> {
    cpu(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// User and system time in the text of a `/proc/PID/stat`.
pub fn cpu(stat: &str) -> Option<Duration> {
    // The name in brackets may hold spaces and brackets itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let total = ticks()? + ticks()?;
    Some(Duration::from_millis(total * 1000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("nothing"), None);
    }
}
