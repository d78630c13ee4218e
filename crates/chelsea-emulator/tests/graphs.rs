//! Launches that are enqueued together.

mod common;

use chelsea_cuda::kernels::rows::{Add, Scale, add, scale};
use chelsea_cuda::{Buffer, Device, DeviceError, Graph, Recorder};
use chelsea_emulator::{Emulator, Schedule};
use common::{Lots, Outcome, device};
use std::sync::Arc;

#[test]
fn a_replay_reads_what_lies_in_device_memory_then_and_nothing_else() -> Outcome {
    let mut lots = Lots::new(41);
    for schedule in Schedule::ALL {
        let device = device(schedule);
        let (x, y) = (Buffer::new(&device, 400)?, Buffer::new(&device, 400)?);
        // Two launches, of which the second reads what the first wrote.
        let mut of_add = Add { x: x.at(), y: y.at(), count: 100, period: 100 };
        let recorder = Recorder::default();
        add(&recorder, &of_add)?;
        scale(&recorder, &Scale { x: x.at(), count: 100, factor: 0.5, cap: 0.0, unused: 0 })?;
        let launches = recorder.into_launches();
        assert_eq!(launches.iter().map(|(kernel, ..)| kernel).collect::<Vec<_>>(), ["add", "scale"]);
        let graph = Graph::new(&device, &launches)?;
        // Neither the arguments that were recorded nor the list of launches is looked at any more.
        (of_add.x, of_add.y) = (0, 0);
        drop(launches);
        assert_eq!(of_add.x, 0);
        for _ in 0..3 {
            let (new_x, new_y) = (lots.row(100, 1.0), lots.row(100, 1.0));
            device.write(x.at(), bytemuck::cast_slice(&new_x))?;
            device.write(y.at(), bytemuck::cast_slice(&new_y))?;
            graph.replay()?;
            let once: Vec<f32> = new_x.iter().zip(&new_y).map(|(x, y)| (x + y) * 0.5).collect();
            assert_eq!(x.values::<f32>(100)?, once);
            graph.replay()?;
            let twice: Vec<f32> = once.iter().zip(&new_y).map(|(x, y)| (x + y) * 0.5).collect();
            assert_eq!(x.values::<f32>(100)?, twice);
        }
    }
    Ok(())
}

#[test]
fn what_was_recorded_is_compared_by_shapes_and_arguments() -> Outcome {
    let record = |count: u32, factor: f32| {
        let recorder = Recorder::default();
        scale(&recorder, &Scale { x: 256, count, factor, cap: 0.0, unused: 0 })?;
        Ok::<_, DeviceError>(recorder.into_launches())
    };
    assert_eq!(record(100, 2.0)?, record(100, 2.0)?);
    assert_ne!(record(100, 2.0)?, record(100, 3.0)?);
    assert_ne!(record(100, 2.0)?, record(1000, 2.0)?);
    assert_eq!((record(1, 1.0)?.len(), Recorder::default().into_launches().is_empty()), (1, true));
    Ok(())
}

#[test]
fn what_was_forgotten_is_not_replayed() -> Outcome {
    // A GPU does not say.
    let device: Arc<dyn Device> = Arc::new(Emulator::new(Schedule::InOrder));
    let prepared = device.prepare(&Recorder::default().into_launches())?;
    device.replay(prepared)?;
    device.forget(prepared);
    assert!(matches!(device.replay(prepared), Err(DeviceError::Failed { .. })));
    let other = Graph::new(&device, &Recorder::default().into_launches())?;
    assert_eq!(Arc::strong_count(&device), 2, "a graph keeps its device");
    drop(other);
    assert_eq!(Arc::strong_count(&device), 1);
    Ok(())
}
