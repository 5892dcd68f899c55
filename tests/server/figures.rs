//! Figures that two pages share.

use crate::harness::root;

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The cells of a line of a table, without marks.
fn cells(line: &str) -> Vec<String> {
    let cells = line.trim_matches('|').split('|');
    cells.map(|cell| cell.trim().replace([',', '`'], "")).collect()
}

#[test]
fn the_guide_to_sizes_has_the_figures_that_were_measured() {
    let (operations, performance) = (page("operations.md"), page("performance.md"));
    // Of each load at the number of connections that its row in the guide is from: answers per second and CPU time in microseconds.
    let measured: Vec<(String, f64)> = performance
        .lines()
        .map(cells)
        .filter(|cells| cells.len() > 7 && cells[1] == "classifyd")
        .filter_map(|cells| Some((cells[2].clone(), cells[7].parse().ok()?)))
        .collect();
    for model in ["small MLP", "digits", "ResNet-18 224 x 224"] {
        let row = operations.lines().map(cells).find(|cells| cells[0] == model);
        let row = row.unwrap_or_else(|| panic!("no row of {model} in operations.md"));
        let (time, unit) = row[1].split_once(' ').unwrap();
        let time = time.parse::<f64>().unwrap() * if unit == "ms" { 1000.0 } else { 1.0 };
        let answers = &row[2];
        let same = |(found, microseconds): &(String, f64)| {
            found == answers && (microseconds / time - 1.0).abs() < 0.01
        };
        assert!(
            measured.iter().any(same),
            "{model}: expected a measurement in performance.md of {answers} answers/s at {time} us, found {measured:?}"
        );
    }
}
