//! Decode steps as graphs.
//!
//! A step's launches are listed first. Where the list is the one of the step before with as many rows, a graph made of it is
//! replayed, which spares the time between launches; all that differs from step to step lies in device memory. So a graph is
//! never out of date: where anything of a launch differs (an address, or the size of a list), the launches are enqueued one by
//! one, and a graph is made anew when they come once more.

use crate::device::{Device, DeviceError, Graph, Launches};
use std::sync::Arc;

/// Graphs that are kept: of so many different numbers of rows.
const MOST: usize = 16;

#[derive(Debug)]
struct Step {
    rows: usize,
    launches: Launches,
    graph: Option<Graph>,
}

/// The steps that were made last, the latest first.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    /// Has the device carry out a step.
    pub fn run(&mut self, device: &Arc<dyn Device>, rows: usize, launches: Launches) -> Result<(), DeviceError> {
        let before = self.0.iter().position(|step| step.rows == rows).map(|place| self.0.remove(place));
        let step = match before {
            Some(mut step) if step.launches == launches => {
                let graph = match step.graph.take() {
                    Some(graph) => graph,
                    None => Graph::new(device, &launches)?,
                };
                graph.replay()?;
                Step { graph: Some(graph), ..step }
            }
            _ => {
                launches.iter().try_for_each(|(kernel, shape, arguments)| device.launch(kernel, shape, arguments))?;
                Step { rows, launches, graph: None }
            }
        };
        self.0.insert(0, step);
        self.0.truncate(MOST);
        Ok(())
    }
}
