use std::time::Duration;

use procfs::process::Process;

/// User and system CPU time that this process has used so far, all threads included.
///
/// `None` where there is no `/proc`, that is, on systems other than Linux.
pub fn own_cpu() -> Option<Duration> {
    let stat = Process::myself().ok()?.stat().ok()?;
    let ticks = (stat.utime + stat.stime) as f64;
    Some(Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = own_cpu().unwrap();
        let mut sum = 0_u64;
        while own_cpu().unwrap() < before + Duration::from_millis(30) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }
}
