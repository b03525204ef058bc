-- A group whose rule was deleted and made again was taken to have kept its replicas in between: nothing told the decisions of
-- one rule from those of the other.
--
-- scaling_decisions.rule_created  when the rule was made by which was decided; null where that rule is gone.
--
-- Locks: `scaling_decisions` for as long as its rows are looked through; only the autoscaler writes it.
-- The running release can live beside it: what it still decides has no rule, and its hours end with the last of it.

alter table scaling_decisions add column rule_created timestamptz;

update scaling_decisions d
   set rule_created = r.created
  from scaling_rules r
 where r.container_group_id = d.container_group_id
   and r.tenant_id = d.tenant_id
   and d.at >= r.created;
