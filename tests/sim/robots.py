"""A two-joint arm, and a family of it."""

from metarl.sim import Mass, MujocoTasks, Uniform

ARM = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.005"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 0.1" pos="0 0 -0.5"/>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 0 1"/>
      <geom name="upper_geom" type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="0.6"/>
      <body name="fore" pos="0.3 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1" range="-2 2" damping="0.05" armature="0.01"
          stiffness="0.2" frictionloss="0.02"/>
        <geom name="fore_geom" type="capsule" fromto="0 0 0 0.2 0 0" size="0.03" mass="0.3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="turn" joint="shoulder" gear="3" ctrlrange="-1 1"/>
    <position name="bend" joint="elbow" kp="2" ctrlrange="-1 1"/>
  </actuator>
  <keyframe><key name="bent" qpos="0 1" qvel="0.5 0"/></keyframe>
</mujoco>
"""


class Arms(MujocoTasks):
    """The arm turns to an angle; tasks differ in the load of the forearm."""

    name, model, frame_skip, horizon = "Arms-v1", ARM, 4, 8
    parameters = {"angle": Uniform(-1, 1), "load": Mass("fore", Uniform(0.5, 2))}  # noqa: RUF012
    bonus = 0.5

    def reward(self, before, actions, after, tasks):
        wanted = tasks.get("angle", 0.0)
        return (self.bonus - (after["qpos"][:, 0] - wanted).abs()).float()
