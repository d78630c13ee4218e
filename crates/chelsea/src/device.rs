//! Where a model runs: on this machine's CPU, or on a GPU that is found when it is asked for.
//!
//! `auto` takes the first GPU that can run the model and says with `-v` why it took none; one that is named must be there.

use crate::output::{self, Table};
use anyhow::{Result, anyhow};
use chelsea_model::{Config, Model};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What `--device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceArg {
    /// A GPU if there is one that can run the model.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = "give auto, cpu, cuda, or cuda:N for the GPU of this number, from 0 on";
        match (text, text.strip_prefix("cuda:")) {
            ("auto", _) => Ok(DeviceArg::Auto),
            ("cpu", _) => Ok(DeviceArg::Cpu),
            ("cuda", _) => Ok(DeviceArg::Cuda(0)),
            (_, Some(number)) => number.parse().map(DeviceArg::Cuda).map_err(|_| unknown),
            _ => Err(unknown),
        }
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// A GPU that was taken hold of, before weights are loaded for it.
pub struct Opened {
    #[cfg(feature = "cuda")]
    inner: cuda::Opened,
}

/// Takes hold of the device that `arg` asks for, for a model of this configuration and size; none for the CPU. `exact` says
/// that products in f32 were asked for.
///
/// # Errors
/// If a GPU was named and is not there, or cannot run the model.
pub fn open(arg: DeviceArg, config: &Config, weight_bytes: usize, exact: bool) -> Result<Option<Opened>> {
    let found = match arg {
        DeviceArg::Cpu => return Ok(None),
        DeviceArg::Auto => try_open(0, config, weight_bytes, exact),
        DeviceArg::Cuda(number) => try_open(number, config, weight_bytes, exact),
    };
    match (found, arg) {
        (Ok(opened), _) => Ok(Some(opened)),
        (Err(why), DeviceArg::Auto) => {
            tracing::info!("running on the CPU: {why}");
            Ok(None)
        }
        (Err(why), _) => Err(anyhow!("--device {arg}: {why}")),
    }
}

#[cfg(not(feature = "cuda"))]
fn try_open(_: usize, _: &Config, _: usize, _: bool) -> Result<Opened, String> {
    Err("this build has no kernels for GPUs (it was made without the feature `cuda`)".into())
}

#[cfg(feature = "cuda")]
fn try_open(number: usize, config: &Config, weight_bytes: usize, exact: bool) -> Result<Opened, String> {
    if exact {
        return Err("--products f32 is computed on the CPU only".into());
    }
    let inner = cuda::Opened::new(number, config, weight_bytes)?;
    Ok(Opened { inner })
}

impl Opened {
    /// Has the device run `model`, whose weights were kept as they lie in the file.
    ///
    /// # Errors
    /// If it has no room for it.
    pub fn take(self, model: Model) -> Result<Model> {
        #[cfg(feature = "cuda")]
        return self.inner.take(model);
        #[cfg(not(feature = "cuda"))]
        Ok(model)
    }
}

/// A device, or why it cannot be used.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    name: String,
    memory: Option<usize>,
    /// What it computes with, or why it does not.
    state: String,
}

/// `chelsea inspect --devices`.
pub fn list(json: bool) -> Result<()> {
    let instructions = format!("{} threads; {}", rayon::current_num_threads(), chelsea_linear::instructions());
    let memory = crate::setup::available_bytes();
    let mut rows = vec![Row { device: "cpu".into(), name: processor(), memory, state: instructions }];
    rows.extend(gpus());
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let mut table = Table::with_heading(["device", "name", "free memory", "state"]);
    for row in rows {
        let memory = row.memory.map_or_else(String::new, output::bytes);
        table.row([row.device, row.name, memory, row.state]);
    }
    table.print();
    Ok(())
}

/// What the processor calls itself, where the system tells.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Vec<Row> {
    let state = "this build has no kernels for GPUs (it was made without the feature `cuda`)".into();
    vec![Row { device: "cuda".into(), name: String::new(), memory: None, state }]
}

#[cfg(feature = "cuda")]
fn gpus() -> Vec<Row> {
    use chelsea_cuda::driver::{self, CudaDevice};
    let count = match driver::count() {
        Ok(count) => count,
        Err(why) => {
            return vec![Row { device: "cuda".into(), name: String::new(), memory: None, state: why.to_string() }];
        }
    };
    let row = |number: usize| {
        let device = format!("cuda:{number}");
        let about = match driver::about(number) {
            Ok(about) => about,
            Err(why) => return Row { device, name: String::new(), memory: None, state: why.to_string() },
        };
        let (memory, state) = match CudaDevice::open(number) {
            Ok(opened) => {
                let (major, minor) = about.capability;
                let products = match opened.library() {
                    Ok(version) => format!("cuBLASLt {version}"),
                    Err(why) => format!("long texts by kernels of our own ({why})"),
                };
                let processors = about.processors;
                let ready =
                    format!("ready; compute capability {major}.{minor}, {processors} multiprocessors; {products}");
                (opened.free_memory().ok(), ready)
            }
            Err(why) => (None, why.to_string()),
        };
        Row { device, name: about.name, memory, state }
    };
    (0..count).map(row).collect()
}

#[cfg(feature = "cuda")]
mod cuda {
    use crate::output;
    use anyhow::{Context as _, Result, ensure};
    use chelsea_cuda::driver::CudaDevice;
    use chelsea_cuda::{CudaBackend, CudaModel, CudaWeights, Device};
    use chelsea_model::{Config, Model};
    use std::sync::Arc;

    /// Rows of a pass that room is kept for, and those of them whose logits are wanted: a chunk of a text that is scored,
    /// and a batch beside it.
    const ROWS: (usize, usize) = (1024, 256);

    /// Less room for caches than this is of no use.
    const LEAST_CACHE: usize = 256 << 20;

    pub struct Opened {
        device: Arc<CudaDevice>,
        name: String,
    }

    impl Opened {
        /// Takes hold of a GPU, if it can run such a model.
        pub fn new(number: usize, config: &Config, weight_bytes: usize) -> Result<Self, String> {
            let device = CudaDevice::open(number).map_err(|why| why.to_string())?;
            config.is_plain().map_err(|what| format!("models with {what} run on the CPU only so far"))?;
            for layer in config.cache_shape().layers() {
                if layer.key_dim != layer.value_dim || !CudaBackend::has_kernels(layer.key_dim, layer.group()) {
                    let (dim, group) = (layer.key_dim, layer.group());
                    return Err(format!("there are no kernels for heads of {dim} numbers in groups of {group}"));
                }
            }
            let free = device.free_memory().map_err(|why| why.to_string())?;
            let needed = weight_bytes + LEAST_CACHE;
            if free < needed {
                let [free, needed] = [free, needed].map(output::bytes);
                return Err(format!("{} has {free} free, and the model takes {needed}", device.about().name));
            }
            Ok(Opened { device: Arc::new(device), name: format!("cuda:{number}") })
        }

        /// Copies the weights over, and gives caches what is left of the memory but a twentieth.
        pub fn take(self, model: Model) -> Result<Model> {
            let device: Arc<dyn Device> = self.device.clone();
            let weights = CudaWeights::upload(&device, &model).with_context(|| format!("{}: the model", self.name))?;
            let free = self.device.free_memory()?;
            let room = free.saturating_sub(weights.workspace_bytes(ROWS.0, ROWS.1) + free / 20);
            ensure!(
                room >= LEAST_CACHE,
                "{} has {} left beside the model's weights: too little for a cache",
                self.name,
                output::bytes(free)
            );
            tracing::info!(
                "running on {} ({}): {} of weights, {} for caches",
                self.name,
                device.about().name,
                output::bytes(weights.bytes()),
                output::bytes(room)
            );
            if let Err(why) = self.device.library() {
                tracing::info!("{}: long texts are multiplied by kernels of our own: {why}", self.name);
            }
            let backend = CudaBackend::new(device, room)?;
            Ok(model.on(Arc::new(CudaModel::new(self.name, weights, backend))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_written() {
        for (text, arg) in [("auto", DeviceArg::Auto), ("cpu", DeviceArg::Cpu), ("cuda:3", DeviceArg::Cuda(3))] {
            assert_eq!(text.parse(), Ok(arg));
            assert_eq!(arg.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceArg::Cuda(0)));
        for bad in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""] {
            assert!(bad.parse::<DeviceArg>().is_err(), "{bad}");
        }
    }
}
