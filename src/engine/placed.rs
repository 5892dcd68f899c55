//! Where a model is to run, found out before its lanes are started.

use classifier::{Bundle, Device, DeviceOptions, LoadError, Placement, Provider, Session, SessionOptions};

use super::plan::GPU_THREADS;

/// Where a model runs. Known before the limits of its batches, which are larger on a GPU.
#[derive(Debug)]
pub struct Placed {
    /// What every lane asks for: with [`Device::Auto`] what was found, so that all lanes run on the same.
    pub(super) device: DeviceOptions,
    pub(super) placement: Placement,
    /// The session that it was found with, if it runs on a GPU.
    pub(super) session: Option<Session>,
}

impl Placed {
    /// Loads the graph on the device that is asked for, if it is more than the CPU. `threads`: of the session.
    pub fn find(bundle: &Bundle, device: DeviceOptions, threads: Option<usize>) -> Result<Self, LoadError> {
        if device.device == Device::Cpu {
            return Ok(Self {
                device,
                placement: Placement::cpu(),
                session: None,
            });
        }
        let options = SessionOptions::default()
            .with_threads(threads.unwrap_or(GPU_THREADS))
            .with_device(device);
        let session = Session::load(bundle, &options)?;
        let placement = session.placement().clone();
        let device = options.device.decided(placement.provider);
        let session = (placement.provider != Provider::Cpu).then_some(session);
        Ok(Self {
            device,
            placement,
            session,
        })
    }

    /// Whether it runs on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.placement.provider != Provider::Cpu
    }
}
