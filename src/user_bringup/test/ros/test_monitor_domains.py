"""What runs in several ROS domains is shown together, and what a bridge carries counts once."""

import os
import time
from contextlib import ExitStack

import rclpy
from user_msgs.msg import ActorStatus, EpisodeResult

from user_bringup.nodes.monitor import Monitor
from user_testing.ports import claim_domain
from user_testing.waiting import wait_until


class Host:
    """A node in a domain of its own."""

    def __init__(self, domain, stack):
        context = rclpy.Context()
        context.init(domain_id=domain)
        stack.callback(context.try_shutdown)
        self._node = rclpy.create_node("host", context=context)
        stack.callback(self._node.destroy_node)
        self._publishers = {}

    def offer(self, topic, kind):
        self._publishers[topic] = self._node.create_publisher(kind, topic, 10)

    def say(self, topic, message):
        self._publishers[topic].publish(message)

    def is_heard(self, topic):
        return self._publishers[topic].get_subscription_count() > 0


def episode(robot, number):
    return EpisodeResult(
        robot=robot, source=0, outcome=1, start_ns=100 + number, end_ns=200 + number
    )


def test_all_domains_of_a_deployment_are_heard_and_twins_count_once(ros_domain):
    domains = [ros_domain, claim_domain().number, claim_domain().number]
    told = []
    with ExitStack() as stack:
        site0, site1, learner = (Host(domain, stack) for domain in domains)
        monitor = stack.enter_context(Monitor(told.append, domains))
        for site, robot in ((site0, "robot0"), (site1, "robot1")):
            status = f"/{robot}/actor_status"
            site.offer(status, ActorStatus)
            wait_until(lambda h=site, t=status: h.is_heard(t), f"{robot} is listened to")
            site.say(status, ActorStatus(actor=robot, robot=robot, steps=7))
            for host in (site, learner):  # where the bridge brings them
                topic = f"/{robot}/episode_result"
                host.offer(topic, EpisodeResult)
                wait_until(lambda h=host, t=topic: h.is_heard(t), f"episodes of {robot}")
                for number in (1, 2, 3):
                    host.say(topic, episode(robot, number))
        learner.say("/robot0/episode_result", episode("robot0", 4))  # the last of all

        def counts():
            with monitor.lock:
                episodes = {key: e.count for key, e in monitor.state.episodes.items()}
                return episodes, {name: a.message.steps for name, a in monitor.state.actors.items()}

        wait_until(lambda: counts()[0].get(("robot0", 0)) == 4, "the last episode")
        wait_until(lambda: counts()[0].get(("robot1", 0)) == 3, "those of the other robot")
        wait_until(lambda: counts()[1] == {"robot0": 7, "robot1": 7}, "both actors")
        time.sleep(0.3)  # what came twice would have been counted by now
        assert counts()[0] == {("robot0", 0): 4, ("robot1", 0): 3}
        assert len(told) == 7


def test_one_domain_is_that_of_the_environment(ros_domain):
    assert os.environ["ROS_DOMAIN_ID"] == str(ros_domain)
    with ExitStack() as stack:
        here, elsewhere = Host(ros_domain, stack), Host(stack.enter_context(claim_domain()), stack)
        monitor = stack.enter_context(Monitor())
        for host in (elsewhere, here):
            host.offer("/r/actor_status", ActorStatus)
        wait_until(lambda: here.is_heard("/r/actor_status"), "it is listened to")
        for host, name in ((elsewhere, "far"), (here, "near")):
            host.say("/r/actor_status", ActorStatus(actor=name))
        wait_until(lambda: monitor.state.actors, "an actor is heard")
        assert set(monitor.state.actors) == {"near"}
        assert not elsewhere.is_heard("/r/actor_status")
